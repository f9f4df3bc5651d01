"""Edits of the training photos, made with earlier weights.

The encoder trains on them because there are few photos, and it must not learn them by heart. The streams are to find
the way back from them: an edit of a photo has no label, but undoing one has, the photo itself.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.editor import PortraitEditor
from gra_core.images import from_bytes, to_bytes
from gra_core.lab.training.data import NamedOffsets, random_offsets

CHUNK = 8


@torch.no_grad()
def edited_photos(weights: Path, photos: Tensor, count: int) -> Tensor:
    """`count` random edits of each photo, with the texture of photos.

    Args:
        weights: folder of an editor's weights.
        photos: (N, 3, S, S) uint8, S up to 1024.
        count: of edits.

    Returns:
        (N, count, 3, S, S) uint8.
    """
    editor = PortraitEditor.from_pretrained(weights, photos.device)
    named = NamedOffsets.of(editor.edits, editor.device)
    variants = photos.new_empty((len(photos), count, *photos.shape[1:]))
    with torch.autocast(editor.device.type, torch.bfloat16, enabled=editor.device.type == "cuda"):
        for batch, results in zip(photos.split(CHUNK), variants.split(CHUNK), strict=True):
            photo = F.interpolate(from_bytes(batch), size=IMAGE_SIZE, mode="bilinear")
            codes, source = editor.invert_batch(photo)
            for i in range(count):
                edited = codes + random_offsets(editor.generator, named, len(codes))
                picture = editor.streams.editing(editor.generator, edited, source).picture.float()
                results[:, i] = to_bytes(F.avg_pool2d(picture, IMAGE_SIZE // batch.shape[-1]))
    return variants
