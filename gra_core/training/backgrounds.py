"""Faces before other backgrounds: a generated face cut out and set before what is behind somebody else.

The generator moves its background along with the head; behind a person who turns, the room stays where it is, and
what the head uncovers is room. Pairs made with these say so.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.directions.person import PersonMask
from gra_core.models.encoder import to_encoder_size
from gra_core.training.data import RealFaces

PLATE_MARGIN = 15
"""So many pixels of 256 around a person count as the person when what is behind is painted over."""
PLATE_SIZE = 512
HOLE = 1e-3


def person_masks(segment: PersonMask, pictures: Tensor) -> Tensor:
    """Masks (B, 1, 256, 256) of pictures (B, 3, S, S) in [-1, 1], on their device."""
    small = to_encoder_size(pictures).float().cpu().numpy()
    return torch.from_numpy(segment(small)).to(pictures.device)


def paint_over(picture: Tensor, keep: Tensor) -> Tensor:
    """Fill what is not kept with colours from around it, from coarser and coarser means.

    Args:
        picture: (B, 3, S, S), S a power of 2.
        keep: (B, 1, S, S), 1 where the picture is right, 0 where it is to be filled.
    """
    if picture.shape[-1] == 1:
        return picture
    weight = F.avg_pool2d(keep, 2)
    mean = F.avg_pool2d(picture * keep, 2) / weight.clamp_min(HOLE)
    coarse = paint_over(mean, (weight > HOLE).float())
    filled = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(filled, picture, keep)


class Backgrounds:
    """What is behind the people of the training photos, without the people; on the device, as uint8."""

    def __init__(self, faces: RealFaces, segment: PersonMask) -> None:
        plates = []
        for batch in faces.pictures.split(16):
            photo = batch.float() / 127.5 - 1
            margin = F.max_pool2d((person_masks(segment, photo) > 0.3).float(), 2 * PLATE_MARGIN + 1, 1, PLATE_MARGIN)
            small = F.avg_pool2d(photo, photo.shape[-1] // PLATE_SIZE)
            plate = paint_over(small, 1 - F.interpolate(margin, size=PLATE_SIZE))
            plates.append((plate.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8))
        self.plates = torch.cat(plates)

    def sample(self, count: int, size: int) -> Tensor:
        """Random plates (count, 3, size, size) in [-1, 1], mirrored, turned upside down, or both, or neither."""
        device = self.plates.device
        plates = self.plates[torch.randint(len(self.plates), (count,), device=device)].float() / 127.5 - 1
        for axis in (2, 3):
            turn = torch.rand(count, 1, 1, 1, device=device) < 0.5
            plates = torch.where(turn, plates.flip(axis), plates)
        return F.interpolate(plates, size=size, mode="bilinear", align_corners=False)


def set_before(pictures: Tensor, mask: Tensor, plates: Tensor) -> Tensor:
    """The person of each picture before another background; mask (B, 1, 256, 256), the rest (B, 3, S, S)."""
    return torch.lerp(plates, pictures, F.interpolate(mask, size=pictures.shape[-1], mode="bilinear"))
