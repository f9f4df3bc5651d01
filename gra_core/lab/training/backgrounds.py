"""Faces before other backgrounds: a face cut out and set before what is behind somebody else.

The generator moves its background along with the head; behind a real person who turns, the background stays, and the
head uncovers more of it. The streams' pairs made with these say so. The encoder sees photos before other backgrounds,
for there are too few of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.images import from_bytes, to_bytes
from gra_core.lab.training.data import RealFaces
from gra_core.models.encoder import to_encoder_size
from gra_core.models.maps import dilate, push_pull_fill
from gra_core.models.person import PersonNet

PLATE_MARGIN = 15
"""So many pixels of 256 around a person count as the person when what is behind is painted over."""
PLATE_SIZE = 512
CERTAIN = 0.3
"""Certainty from which on a mask shows a person, where taking somebody for background would do harm."""


@torch.no_grad()
def person_masks(net: PersonNet, pictures: Tensor) -> Tensor:
    """Masks (B, 1, 256, 256) of pictures (B, 3, S, S) in [-1, 1], in full precision."""
    with torch.autocast(pictures.device.type, enabled=False):
        return net(to_encoder_size(pictures).float())


def packed(mask: Tensor) -> Tensor:
    """Masks in [0, 1] as uint8, to be drawn with the photos they belong to (`RealFaces.sample_with`)."""
    return to_bytes(2 * mask - 1)


def unpacked(drawn: Tensor) -> Tensor:
    """Masks in [0, 1] of `packed` ones that were drawn, which come in [-1, 1] as pictures do."""
    return drawn / 2 + 0.5


class Backgrounds:
    """What is behind the people of the training photos, without the people; on the device, as uint8.

    Attributes:
        plates: (N, 3, 512, 512).
        masks: where the people were, (N, 1, 256, 256), `packed`.
    """

    def __init__(self, faces: RealFaces, net: PersonNet) -> None:
        plates, masks = [], []
        for batch in faces.pictures.split(16):
            photo = from_bytes(batch)
            mask = person_masks(net, photo)
            masks.append(packed(mask))
            margin = dilate(mask > CERTAIN, PLATE_MARGIN)
            small = F.avg_pool2d(photo, photo.shape[-1] // PLATE_SIZE)
            plate = push_pull_fill(small, 1 - F.interpolate(margin, size=PLATE_SIZE))
            plates.append(to_bytes(plate))
        self.plates, self.masks = torch.cat(plates), torch.cat(masks)

    def sample(self, count: int, size: int) -> Tensor:
        """Random plates (count, 3, size, size) in [-1, 1], mirrored, turned upside down, or both, or neither."""
        device = self.plates.device
        plates = from_bytes(self.plates[torch.randint(len(self.plates), (count,), device=device)])
        for axis in (2, 3):
            turn = torch.rand(count, 1, 1, 1, device=device) < 0.5
            plates = torch.where(turn, plates.flip(axis), plates)
        return F.interpolate(plates, size=size, mode="bilinear", align_corners=False)


def set_before(pictures: Tensor, mask: Tensor, plates: Tensor) -> Tensor:
    """The person of each picture before another background; mask (B, 1, 256, 256), the rest (B, 3, S, S)."""
    return torch.lerp(plates, pictures, F.interpolate(mask, size=pictures.shape[-1], mode="bilinear"))
