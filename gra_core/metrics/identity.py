"""Identity distance: how far an edit has moved a face away from the person.

Measured with dlib's face recognition ResNet (http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html):
faces of one person lie less than 0.6 apart, different people about 0.8. The weights come with the package
``face_recognition_models``.
"""

import importlib.util
from functools import cache
from pathlib import Path

import dlib
import numpy as np
from PIL import Image

from gra_core.errors import CheckpointError

DESCRIPTOR_SIZE = 512
"""Side, in pixels, to which a crop is brought before its face is located and described."""

FACE_RECTANGLE = (0.186, 0.320, 0.791, 0.926)
"""Left, top, right, bottom of the face in an aligned crop, as parts of its side.

FFHQ alignment puts the face in one place; this is dlib's median detection over about a hundred aligned portraits.
"""


def face_descriptor(crop: Image.Image) -> np.ndarray:
    """The 128 numbers by which dlib's network knows a face; shape (128,), float64.

    `crop`: square RGB picture with FFHQ alignment, of any size; it is brought to 512 px (Lanczos). The face is
    located by dlib's HOG detector, of several detections the one that covers FACE_RECTANGLE best; where the
    detector finds nothing there, FACE_RECTANGLE itself is taken. Then dlib's 5-point predictor (eye corners and nose,
    so that an open mouth does not move the crop that the network sees).
    Raises CheckpointError when the models are not installed.
    """
    models = _models()
    pixels = np.asarray(crop.convert("RGB").resize((DESCRIPTOR_SIZE, DESCRIPTOR_SIZE), Image.Resampling.LANCZOS))
    expected = dlib.rectangle(*(round(part * DESCRIPTOR_SIZE) for part in FACE_RECTANGLE))
    found = [face for face in models.detector(pixels, 0) if _overlap(face, expected) > 0.3]
    face = max(found, key=lambda candidate: _overlap(candidate, expected), default=expected)
    return np.array(models.network.compute_face_descriptor(pixels, models.predictor(pixels, face)))


def identity_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Euclidean distance between two descriptors of `face_descriptor`; 0 for the same picture."""
    return float(np.linalg.norm(first - second))


class _Models:
    def __init__(self) -> None:
        self.detector = dlib.get_frontal_face_detector()
        self.predictor = dlib.shape_predictor(_model_file("shape_predictor_5_face_landmarks.dat"))
        self.network = dlib.face_recognition_model_v1(_model_file("dlib_face_recognition_resnet_model_v1.dat"))


@cache
def _models() -> _Models:
    return _Models()


def _model_file(name: str) -> str:
    # Importing the package would need pkg_resources, which setuptools no longer has; its files are all that is needed.
    spec = importlib.util.find_spec("face_recognition_models")
    path = Path(spec.submodule_search_locations[0], "models", name) if spec else None
    if path is None or not path.is_file():
        raise CheckpointError("dlib's face models are missing: pip install face_recognition_models")
    return str(path)


def _overlap(first: dlib.rectangle, second: dlib.rectangle) -> float:
    """Intersection over union, 0 to 1."""
    common = first.intersect(second).area()
    return common / (first.area() + second.area() - common)
