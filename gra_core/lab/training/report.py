"""Pictures of a training run, for looking at."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gra_core.images import to_bytes


def save_grid(rows: Tensor, path: Path, columns: int = 1) -> None:
    """Write (N, K, 3, H, W) in [-1, 1] as a JPEG of N groups of K pictures, `columns` groups to a line."""
    count = -(-len(rows) // columns) * columns
    rows = torch.cat((rows, rows.new_full((count - len(rows), *rows.shape[1:]), -1)))
    lines = rows.unflatten(0, (-1, columns)).flatten(1, 2)
    sheet = lines.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    pixels = to_bytes(sheet.float()).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=88)
