"""Whether a photo shows glasses, which the code has to agree with.

The encoder gives some people who wear none the beginnings of a frame, and some who wear one hardly any. The residuals
make up for it while nothing is edited; when the head turns or grows older, bits of a frame show, or half of it goes.
"""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EYE_STRIP = (40, 88, 216, 152)
"""Left, top, right, bottom of the region in which glasses are looked for, at 256 px."""

ORIENTATIONS, CELL, BLOCK = 8, 8, 2
"""Directions of gradients, side of a cell in pixels, and of a block in cells."""
CLIPPED = 0.2
"""Largest value of a block before it is normalised again."""

PERHAPS_NONE, CERTAINLY_NONE = -3.0, -5.0
"""Log odds of glasses in the photo below which a code is moved off them, and at which the whole way."""
PERHAPS_SOME, CERTAINLY_SOME = -0.5, 1.5
"""Sums of the log odds in the photo and in its code's picture above which it is moved on to them, and at which the
whole way. The two miss different frames: a fringe hides some from the one, the other thins out thin ones."""

WHOLE_WAY = 15.0
"""Strength of the edit that puts glasses on, by which a code is moved."""


class GlassesProbe(nn.Module):
    """Log odds that an aligned face wears glasses: logistic regression on gradients around the eyes.

    Args:
        weights: (F + 1,), the last one the constant.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights.float())

    @classmethod
    def of(cls, weights: np.ndarray | None, device: torch.device | str) -> Self | None:
        """The probe of a directions file; None where the file holds none."""
        return None if weights is None else cls(torch.from_numpy(weights)).to(device)

    def forward(self, picture: Tensor) -> Tensor:
        """Pictures (B, 3, 256, 256) in [-1, 1] -> (B,)."""
        return eye_gradients(picture) @ self.weights[:-1] + self.weights[-1]


def strengths_to_agree(probe: GlassesProbe | None, photos: Tensor, found: Tensor) -> Tensor:
    """Strengths (B,) of the edit for glasses that make codes agree with photos: off, on, or 0.

    Args:
        probe: without one, 0.
        photos: (B, 3, 256, 256).
        found: the pictures of their codes.
    """
    if probe is None:
        return photos.new_zeros(len(photos))
    seen = probe(photos)
    return WHOLE_WAY * agreement(seen, seen + probe(found))


def agreement(photo: Tensor, both: Tensor) -> Tensor:
    """How far to move codes on to glasses, (B,) in [-1, 1], by log odds in photos and their sums with the code's."""
    off = (photo - PERHAPS_NONE) / (PERHAPS_NONE - CERTAINLY_NONE)
    on = (both - PERHAPS_SOME) / (CERTAINLY_SOME - PERHAPS_SOME)
    return off.clamp(-1, 0) + on.clamp(0, 1)


def eye_gradients(picture: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal & Triggs, CVPR 2005) around the eyes, (B, F), as scikit-image has them.

    `picture`: (B, 3, 256, 256) in [-1, 1].
    """
    left, top, right, bottom = EYE_STRIP
    strip = 127.5 * (picture[:, :, top:bottom, left:right].float() + 1)
    grey = strip.round().mean(1, keepdim=True)  # even parts of a picture have no gradient, nor a direction of one
    across, down = torch.zeros_like(grey), torch.zeros_like(grey)
    across[..., 1:-1] = grey[..., 2:] - grey[..., :-2]
    down[..., 1:-1, :] = grey[..., 2:, :] - grey[..., :-2, :]
    angle = torch.rad2deg(torch.atan2(down, across)) % 180
    which = (angle * (ORIENTATIONS / 180)).long().clamp_max(ORIENTATIONS - 1)
    strength = torch.zeros_like(grey).expand(-1, ORIENTATIONS, -1, -1).scatter(1, which, torch.hypot(across, down))
    cells = F.avg_pool2d(strength, CELL)
    blocks = F.unfold(cells, BLOCK).transpose(1, 2)
    blocks = blocks.unflatten(2, (ORIENTATIONS, BLOCK**2)).transpose(2, 3).flatten(2)
    for limit in (CLIPPED, torch.inf):
        length = (blocks.square().sum(2, keepdim=True) + 1e-10).sqrt()
        blocks = (blocks / length).clamp_max(limit)
    return blocks.flatten(1)
