"""Warps a busy background towards what a turning head uncovers, so that things in it stay whole.

Inpainting cannot complete a flag from pieces: halves of stars and stripes are no flag. The visible part, made wider,
is one.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.images import from_bytes, to_bytes
from gra_core.models.maps import (
    HOLE,
    box_filter,
    dilate,
    linstep,
    magnitude,
    push_pull_fill,
    sizes,
    upscale,
    upscale_flow,
    warp,
)
from gra_core.models.person import PERSON_SIZE

BUSY_FROM = 0.5
"""How busy a background has to be, from 0 for a plain wall to 1."""
MARGIN = 10
"""So much around the person is not warped: their hair is there."""
UNCOVERED = (2.0, 12.0)
"""By how much a person has to move to begin to uncover the background, and to uncover it in full."""
OUTLINE = 4
"""Width of the strip around the person that has to come from what is seen, """
BEYOND = 4.0
"""and how far beyond where that begins."""
FRAME = 4
"""So much at the edges of a picture stays where it is."""
SMOOTH = 9
"""Side of the squares over which ways, flows and masks are averaged."""
COARSE_TO_FINE = ((16, 40), (32, 30), (64, 30))
"""Sides of the flows in which the warp is spread out evenly, and rounds for each."""
WHOLLY = 0.2
"""Share of a coarse place that has to be fixed for the place to be."""
TOO_WIDE = (0.2, 0.4)
"""Sizes, in the photo, of what is shown at size 1, up to which it is too wide, and from which on it is not."""
HIDDEN = (1.0, 0.6)
"""How far a place may be hidden in the photo that something comes from."""
MOVES = (0.3, 1.5)
"""From where on, and by how much for sure, the background has moved."""


@dataclass(frozen=True, eq=False)
class WarpSource:
    """Source of the warp of busy backgrounds.

    Attributes:
        picture: photos, with something else in the place of the person, (B, 3, 1024, 1024), uint8.
        hidden: how far something else is there, 0 to 1, (B, 1, 256, 256).
        way: from each place inside the person to the nearest that shows the background, (B, 2, 256, 256); less near
            their outline, and 0 outside, so that nothing moves without an edit, and where the background is not busy.
        busy: whether the background is busy, (B, 1, 1, 1).
    """

    picture: Tensor
    hidden: Tensor
    way: Tensor
    busy: Tensor

    @classmethod
    def of(cls, photo: Tensor, clean_plate: Tensor, somebody: Tensor, shown: Tensor, busy: Tensor) -> Self | None:
        """Of photos and their clean plates, (B, 3, 1024, 1024) in [-1, 1]; None if no background is busy.

        Args:
            photo: the photos.
            clean_plate: the backgrounds without the person.
            somebody: where the person surely is, bool, (B, 1, 256, 256).
            shown: where `warp_background` would take the photo to show them, bool, (B, 1, 256, 256).
            busy: how busy backgrounds are, 0 to 1, (B,).
        """
        busy = (busy > BUSY_FROM)[:, None, None, None]
        if not busy.any():
            return None
        covered = (magnitude(nearest_seen(1 - somebody.float())) <= MARGIN).float()
        hidden = box_filter(covered, SMOOTH)
        picture = torch.lerp(photo, clean_plate, upscale(hidden, IMAGE_SIZE // PERSON_SIZE))
        inside = linstep(magnitude(nearest_seen(shown.float())), *UNCOVERED)
        return cls(to_bytes(picture), hidden, busy * inside * nearest_seen(covered), busy)


def warp_background(warp_source: WarpSource, somebody: Tensor) -> tuple[Tensor, Tensor] | None:
    """The backgrounds of an edit, warped.

    Args:
        warp_source: of the photos.
        somebody: 1 where the edit shows the person, else 0, (B, 1, 256, 256).

    Returns:
        (B, 3, 1024, 1024) in [-1, 1]; how far that is to be shown, 0 to 1, (B, 1, 256, 256): not where nothing moves,
        nor where it would be too wide. None if it is nowhere.
    """
    flow = background_flow(somebody, warp_source.way)
    least, _ = sizes(flow)
    fits = linstep(box_filter(least, SMOOTH), *TOO_WIDE) * linstep(warp(warp_source.hidden, flow), *HIDDEN)
    share = box_filter(fits, SMOOTH) * linstep(magnitude(flow), *MOVES)
    if not share.any():
        return None
    return warp(from_bytes(warp_source.picture), upscale_flow(flow, IMAGE_SIZE // PERSON_SIZE)), share


def nearest_seen(hole: Tensor) -> Tensor:
    """Way, x and y in places, from each place to the nearest one outside of a hole, (B, 2, S, S); 0 if all is hole.

    Jump flooding, with one more round of single steps (Rong & Tan 2006, https://doi.org/10.1145/1111411.1111431): a
    few places get one that is nearly the nearest. `hole`: 0 or 1, (B, 1, S, S).
    """
    side = hole.shape[-1]
    nowhere = 4.0 * side
    axis = torch.arange(side, device=hole.device, dtype=torch.float32)
    x, y = axis.expand(side, side), axis[:, None].expand(side, side)
    near_x, near_y = (torch.where(hole > 0, nowhere, own) for own in (x, y))
    least = (near_x - x).square() + (near_y - y).square()
    for step in (*(side >> halvings for halvings in range(1, side.bit_length())), 1):
        padded = [F.pad(near, (step,) * 4, value=nowhere) for near in (near_x, near_y)]
        for down in (0, step, 2 * step):
            for right in (0, step, 2 * step):
                other_x, other_y = (near[..., down : down + side, right : right + side] for near in padded)
                distance = (other_x - x).square() + (other_y - y).square()
                nearer = distance < least
                least = torch.where(nearer, distance, least)
                near_x, near_y = torch.where(nearer, other_x, near_x), torch.where(nearer, other_y, near_y)
    found = near_x < nowhere
    return torch.cat((torch.where(found, near_x - x, 0.0), torch.where(found, near_y - y, 0.0)), 1)


def background_flow(somebody: Tensor, way: Tensor) -> Tensor:
    """Where the background of an edit comes from, so that what is uncovered comes from what is seen.

    Args:
        somebody: 1 where the edit shows the person, else 0, (B, 1, 256, 256).
        way: from where the photo shows the person to where it shows the background, else 0, (B, 2, 256, 256).

    Returns:
        flow (B, 2, 256, 256), x and y: 0 at the edges of the picture, and around a person who has not moved.
    """
    wanted = way * (1 + BEYOND / magnitude(way).clamp_min(BEYOND))
    near = dilate(somebody, OUTLINE)
    strip = near - somebody
    wanted = box_filter(wanted * strip, SMOOTH) / box_filter(strip, SMOOTH).clamp_min(HOLE)
    frame = F.pad(torch.zeros_like(near[..., FRAME:-FRAME, FRAME:-FRAME]), (FRAME,) * 4, value=1.0)
    return box_filter(infinity_harmonic(near * push_pull_fill(wanted, strip), torch.maximum(near, frame)), SMOOTH)


def infinity_harmonic(values: Tensor, fixed: Tensor) -> Tensor:
    """Values (B, C, 256, 256), changing as little as can be from place to place, between where they are fixed.

    The steepest change is the least possible (infinity harmonic): each place is half way between its greatest and its
    least neighbour (Oberman 2005, https://doi.org/10.1090/S0025-5718-04-01688-6). A harmonic surface, which is the
    smoothest on average, is steep around a head.
    """
    start = COARSE_TO_FINE[0][0] // 2
    result = values.new_zeros(*values.shape[:2], start, start)
    for side, rounds in COARSE_TO_FINE:
        share = F.avg_pool2d(fixed, PERSON_SIZE // side)
        wanted = F.avg_pool2d(values * fixed, PERSON_SIZE // side) / share.clamp_min(HOLE)
        held = (share > WHOLLY).float()
        result = torch.lerp(upscale(result, 2), wanted, held)
        for _ in range(rounds):
            neighbours = F.pad(result, (1,) * 4, mode="replicate")
            middle = (F.max_pool2d(neighbours, 3, 1) - F.max_pool2d(-neighbours, 3, 1)) / 2
            result = torch.lerp(middle, wanted, held)
    return upscale(result, PERSON_SIZE // side)
