"""Sets of faces that edits are measured on: generated ones, and photos as the whole editor shows them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gra_core.constants import IMAGE_SIZE
from gra_core.lab.directions.response import codes_of
from gra_core.lab.directions.sampling import BATCH, Renderer, to_pixels
from gra_core.lab.directions.scores import SCORE_SIZE
from gra_core.lab.pictures import picture_files


@dataclass(frozen=True)
class FaceSet:
    """Some faces.

    Attributes:
        codes: (N, 16, 512) float32, their W+ codes.
        draw: gives their pictures (N, 256, 256, 3) uint8 for an offset (16, 512), or one for each face (N, 16, 512).
    """

    codes: np.ndarray
    draw: Callable[[np.ndarray], np.ndarray]


def generated_faces(render: Renderer, w: np.ndarray) -> FaceSet:
    """Faces of the generator by their codes w (N, 512)."""
    codes = codes_of(w)
    return FaceSet(codes, lambda offset: render((codes + offset).astype(np.float32)))


def photo_files(folder: Path, count: int) -> list[Path]:
    """Up to `count` pictures from all over a folder, in order of their names.

    Raises:
        UnreadableImageError: it holds none.
    """
    files = picture_files(folder)
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int))]


def photo_faces(files: list[Path], size: int, device: str | None = None) -> Iterator[FaceSet]:
    """Aligned photos, edited by the whole editor (`gra_core.editor`), in sets of up to `size`."""
    from gra_core.editor import PortraitEditor  # noqa: PLC0415
    from gra_core.images import image_to_tensor, load_image  # noqa: PLC0415

    editor = PortraitEditor.from_pretrained(device=device)
    batch = BATCH.get(editor.device.type, 1)

    def read(file: Path) -> torch.Tensor:
        return image_to_tensor(load_image(file).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS))

    def face_set(files: list[Path]) -> FaceSet:
        with torch.inference_mode():
            inversions = [
                editor.invert_batch(torch.cat([read(file) for file in files[i : i + batch]]).to(editor.device))
                for i in range(0, len(files), batch)
            ]

        @torch.inference_mode()
        def draw(offset: np.ndarray) -> np.ndarray:
            offsets = np.broadcast_to(offset, (len(files), *offset.shape[-2:])).astype(np.float32)
            parts, start = [], 0
            for codes, source in inversions:
                edited = codes + torch.from_numpy(offsets[start : start + len(codes)]).to(codes)
                picture = editor.streams.editing(editor.generator, edited, source).picture.clamp(-1, 1)
                parts.append(to_pixels(torch.nn.functional.avg_pool2d(picture, IMAGE_SIZE // SCORE_SIZE)))
                start += len(codes)
            return np.concatenate(parts)

        return FaceSet(np.concatenate([codes.float().cpu().numpy() for codes, _ in inversions]), draw)

    return (face_set(files[i : i + size]) for i in range(0, len(files), size))
