"""Generated faces to fit directions to and to check them on: codes w, and their pictures at the size that is scored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gra_core.checkpoints import CheckpointSource
from gra_core.constants import CHECKPOINT_DIR, STYLE_DIM
from gra_core.lab.directions.scores import SCORE_SIZE
from gra_core.memory import keep_freed_memory
from gra_core.models.generator import Generator

GENERATOR_FILE = CHECKPOINT_DIR / "generator.safetensors"

TRUNCATION = 0.8
"""Samples are mean_w + 0.8 (w - mean_w): fewer broken pictures to score, with every attribute still present."""


BATCH = {"cuda": 8, "cpu": 1}
"""Pictures of 1024 px that are rendered at a time: on a CPU one is fastest."""


def load_generator(path: Path = GENERATOR_FILE, device: str | None = None) -> Generator:
    """The generator with its weights, for inference on `device`: "cpu", "cuda", ...; None is a GPU if there is one.

    Raises:
        CheckpointError: the file is missing or does not fit.
    """
    generator = CheckpointSource(path.parent).load(path.name, Generator())
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    return generator.to(device, memory_format=torch.channels_last)


def sample_w(generator: Generator, count: int, seed: int, truncation: float = TRUNCATION) -> np.ndarray:
    """Random codes w (count, 512), float32; truncation 0 is the average face, 1 the whole variety."""
    z = torch.randn(count, STYLE_DIM, generator=torch.Generator().manual_seed(seed))
    mean = generator.mean_w
    return (mean + truncation * (generator.mapping(z.to(mean.device)) - mean)).cpu().numpy()


def small_pictures(generator: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """Pictures (B, 3, 256, 256), about [-1, 1], of W+ codes (B, 16, 512): means over squares of pixels."""
    picture = generator(codes)
    return torch.nn.functional.avg_pool2d(picture, picture.shape[-1] // SCORE_SIZE)


def to_pixels(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W), about [-1, 1] -> (B, H, W, 3) uint8, contiguous."""
    x = ((pictures + 1) * 127.5).round().clamp(0, 255).byte()
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).cpu().numpy())


class Renderer:
    """Renders W+ codes at the size that is scored.

    Args:
        generator: with its weights.
        compiled: compile it first: takes a minute, and then a third of the time a picture.
    """

    def __init__(self, generator: Generator, *, compiled: bool = False) -> None:
        self.generator = generator
        self.batch = BATCH.get(generator.mean_w.device.type, 1)
        self._draw = torch.compile(small_pictures) if compiled else small_pictures

    @torch.inference_mode()
    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Pictures (N, 256, 256, 3) uint8 RGB of W+ codes (N, 16, 512) float32."""
        pictures = np.empty((len(codes), SCORE_SIZE, SCORE_SIZE, 3), np.uint8)
        for i in range(0, len(codes), self.batch):
            part = torch.from_numpy(codes[i : i + self.batch]).to(self.generator.mean_w)
            pictures[i : i + self.batch] = to_pixels(self._draw(self.generator, part))
        return pictures
