"""Latent mappers of StyleCLIP (Patashnik et al., ICCV 2021, https://arxiv.org/abs/2103.17249, section 5), as edits.

A mapper is a small net that reads the W+ code of a face and gives the offset that makes one edit, so each face gets
an offset of its own. The published checkpoints were trained on StyleGAN2-FFHQ, whose W this generator shares. Their
file holds `state_dict` with `mapper.{course,medium,fine}_mapping.mapping.{1..4}.{weight,bias}` for the rows 0-3, 4-7
and 8-17 of 18 (spelled so), and `opts`, which say which of the three are left out.
"""

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions.files import LAYERS, LEVELS, MAX_MAPPER_BYTES, STYLEGAN2_ROWS, to_rows
from gra_core.directions.importers import read_in_worker
from gra_core.directions.registry import EditDirection
from gra_core.errors import DirectionFileError, MissingPackageError

STEP = 0.1
"""Factor of a mapper's output in the published code, which here is strength +100."""

LR_MULTIPLIER = 0.01
"""Weights are kept divided by it, and multiplied by it in use, as are biases (StyleGAN's equalised learning rate)."""


class LevelMapper(nn.Module):
    """One level of a mapper: normalisation, then four fully connected layers, the same for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(STYLE_DIM, STYLE_DIM) for _ in range(LAYERS))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, rows, 512) -> (B, rows, 512). As published, the normalisation runs over the rows, not over the 512."""
        x = rows * torch.rsqrt(rows.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * 2**0.5
        return x


class LevelsMapper(nn.Module):
    """A mapper: up to three levels; those left out do not move their rows."""

    def __init__(self, levels: list[str]) -> None:
        """Make the levels named, in the order of `LEVELS`."""
        super().__init__()
        self.levels = nn.ModuleDict({name: LevelMapper() for name in LEVELS if name in levels})

    def forward(self, codes: Tensor) -> Tensor:
        """Offsets at strength +100, (B, 18, 512), for StyleGAN2's W+ codes (B, 18, 512)."""
        offsets = torch.zeros_like(codes)
        for name, level in self.levels.items():
            offsets[:, LEVELS[name]] = level(codes[:, LEVELS[name]])
        return STEP * offsets

    @torch.inference_mode()
    def offset(self, code: np.ndarray) -> np.ndarray:
        """Offset (16, 512) at strength +100 for a W+ code (16, 512) of this generator.

        Rows 15 to 17 of StyleGAN2 all correspond to row 15 here: they get its code, and it gets their mean offset.
        """
        rows = np.minimum(np.arange(STYLEGAN2_ROWS), NUM_STYLES - 1)
        codes = torch.from_numpy(np.ascontiguousarray(code[rows], np.float32))
        return to_rows(self(codes[None])[0].numpy())


def load_mapper(
    source: str | Path, average: np.ndarray, file: str | None = None, name: str | None = None
) -> EditDirection:
    """A mapper checkpoint as an edit.

    Args:
        source: the checkpoint's path, a folder that holds it, or a Hub repository ("owner/name").
        average: (512,) code of the average face; the edit's `vector` is the mapper's offset for it.
        file: name of the checkpoint in the folder or repository.
        name: of the slider; the file's name by default.

    Raises:
        DirectionFileError: there is no such file, or it is no mapper checkpoint.
        MissingPackageError: it cannot be downloaded.
    """
    path = _locate(source, file)
    mapper = _read(path)
    label = (name or path.stem.replace("_", " ")).strip()[:60]
    code = np.broadcast_to(average.astype(np.float32), (NUM_STYLES, STYLE_DIM))
    return EditDirection(
        re.sub(r"\W+", "_", label.lower()).strip("_"),
        label,
        "+ makes the edit that the mapper was trained for, - its opposite.",
        -MAX_STRENGTH,
        MAX_STRENGTH,
        mapper.offset(code),
        "StyleCLIP",
        "A published mapper: its effect depends on the face, and was not measured here; - was not trained.",
        f"StyleCLIP latent mapper {path.name}",
        kind="mapper",
        mapper=mapper.offset,
    )


def load_mappers(folder: Path, average: np.ndarray) -> dict[str, EditDirection]:
    """All mapper checkpoints (`*.pt`) of a folder as edits by key, in the order of their names. As `load_mapper`."""
    edits = [load_mapper(path, average) for path in sorted(folder.glob("*.pt"))]
    return {edit.key: edit for edit in edits}


def _locate(source: str | Path, file: str | None) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir() or isinstance(source, Path) or str(source).count("/") != 1:
        path = path / file if file else path
        if not path.is_file():
            raise DirectionFileError(f"There is no mapper checkpoint {path.name}.")
        return path
    if not file:
        raise DirectionFileError(f"Say which file of the Hub repository {source} the mapper is.")
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    try:
        return Path(hf_hub_download(source, file))
    except Exception as error:  # the Hub client raises many kinds: network, HTTP, missing repository or file
        reason = str(error).strip().splitlines()[0]
        raise MissingPackageError(f"{file} could not be downloaded from {source} ({reason}).") from error


def _read(path: Path) -> LevelsMapper:
    """The mapper in a checkpoint. Raises DirectionFileError."""
    shapes = [(STYLE_DIM, STYLE_DIM), (STYLE_DIM,)] * LAYERS
    sizes = [int(np.prod(shape)) for shape in shapes]
    options = {"most": MAX_MAPPER_BYTES, "output": 4 * sum(sizes) * len(LEVELS)}
    levels, content = read_in_worker("read_mapper", path, path.name, {}, **options)
    mapper = LevelsMapper(levels).requires_grad_(False).eval()
    numbers = torch.from_numpy(np.frombuffer(content, np.float32).copy())
    scale = LR_MULTIPLIER / STYLE_DIM**0.5
    for name, part in zip(mapper.levels, numbers.view(len(levels), -1), strict=True):
        weights = [values.view(shape) for values, shape in zip(part.split(sizes), shapes, strict=True)]
        for layer, weight, bias in zip(mapper.levels[name].layers, weights[::2], weights[1::2], strict=True):
            layer.weight.copy_(weight * scale)
            layer.bias.copy_(bias * LR_MULTIPLIER)
    if not all(parameter.isfinite().all() for parameter in mapper.parameters()):
        raise DirectionFileError(f"{path.name} holds values that are not finite.")
    return mapper
