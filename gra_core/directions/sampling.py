"""Generated faces to fit directions to and to check them on: codes w, and their pictures at the size that is scored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gra_core.constants import CHECKPOINT_DIR, STYLE_DIM
from gra_core.directions.scores import SCORE_SIZE
from gra_core.errors import CheckpointError
from gra_core.memory import keep_freed_memory
from gra_core.models.generator import Generator

GENERATOR_FILE = CHECKPOINT_DIR / "generator.safetensors"

TRUNCATION = 0.8
"""Samples are mean_w + 0.8 (w - mean_w): fewer broken pictures to score, with every attribute still present."""


def load_generator(path: Path = GENERATOR_FILE) -> Generator:
    """The generator with its weights, for inference on the CPU or, where there is one, the GPU.

    Raises:
        CheckpointError: the file is missing or does not fit.
    """
    generator = Generator()
    try:
        generator.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"The generator {path} cannot be loaded: {' '.join(str(error).split())}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_freed_memory()
    return generator.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def sample_w(generator: Generator, count: int, seed: int, truncation: float = TRUNCATION) -> np.ndarray:
    """Random codes w (count, 512), float32; truncation 0 is the average face, 1 the whole variety."""
    z = torch.randn(count, STYLE_DIM, generator=torch.Generator().manual_seed(seed))
    mean = generator.mean_w
    return (mean + truncation * (generator.mapping(z.to(mean.device)) - mean)).cpu().numpy()


def small_pictures(generator: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """Pictures (B, 3, 256, 256), about [-1, 1], of W+ codes (B, 16, 512): means over squares of pixels."""
    picture = generator(codes)
    return torch.nn.functional.avg_pool2d(picture, picture.shape[-1] // SCORE_SIZE)


class Renderer:
    """Renders W+ codes at the size that is scored.

    Args:
        generator: with its weights.
        compiled: compile it first: takes a minute, and then a third of the time a picture.
    """

    def __init__(self, generator: Generator, *, compiled: bool = False) -> None:
        self.generator = generator
        self._draw = torch.compile(small_pictures) if compiled else small_pictures

    @torch.inference_mode()
    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Pictures (N, 256, 256, 3) uint8 RGB, one at a time, of W+ codes (N, 16, 512) float32."""
        pictures = np.empty((len(codes), SCORE_SIZE, SCORE_SIZE, 3), np.uint8)
        for picture, code in zip(pictures, codes, strict=True):
            x = self._draw(self.generator, torch.from_numpy(code[None]).to(self.generator.mean_w))
            picture[:] = ((x[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return pictures
