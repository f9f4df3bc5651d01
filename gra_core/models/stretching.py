"""A room that stretches after a head that turns away from it, so that what stands there stays whole.

What an edit uncovers of a busy room cannot be put together from pieces: halves of stars and stripes are no flag. What
stands beside it, made wider, is one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.models.editing import upscale
from gra_core.models.inpainting import HOLE, around, between, paint_over, widened

OUTLINE = 4
"""Width, in pixels of 256, of the strip around the person that has to come from what is seen."""
SMOOTH = 9
"""Side of the squares, in pixels of 256, over which directions are averaged."""
BEYOND = 4.0
"""So many pixels of 256 beyond where the room begins to be seen that strip comes from."""
FRAME = 4
"""So many pixels of 256 at the edges of a picture stay where they are."""
COARSE_TO_FINE = ((16, 40), (32, 30), (64, 30))
"""Sides of the flows in which a stretch is spread out evenly, and rounds for each."""
WHOLLY = 0.2
"""Share of a coarse place that has to be fixed for the place to be."""


def sizes(flow: Tensor) -> tuple[Tensor, Tensor]:
    """How large what a flow shows at size 1 is in the source, along the direction where it is least and most.

    Args:
        flow: source position minus own, x and y, in positions, (B, 2, S, S).

    Returns:
        The singular values of its Jacobian, (B, 1, S, S) each.
    """
    along_x, along_y = (torch.gradient(flow, dim=axis)[0] for axis in (3, 2))
    (a, c), (b, d) = along_x.unbind(1), along_y.unbind(1)
    # Of the matrix ((1 + a, b), (c, 1 + d)) that takes small steps in the picture to steps in its source.
    evenly, unevenly = torch.hypot(2 + a + d, c - b) / 2, torch.hypot(a - d, b + c) / 2
    return (evenly - unevenly).abs()[:, None], (evenly + unevenly)[:, None]


def to_seen(hole: Tensor) -> Tensor:
    """Way, x and y in places, from each place to the nearest one outside of a hole, (B, 2, S, S); 0 if all is hole.

    Jump flooding, with one more round of single steps (Rong & Tan 2006, https://doi.org/10.1145/1111411.1111431): a
    few places get one that is nearly the nearest. `hole`: 0 or 1, (B, 1, S, S).
    """
    side = hole.shape[-1]
    nowhere = 4.0 * side
    axis = torch.arange(side, device=hole.device, dtype=torch.float32)
    here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]
    nearest = torch.where(hole > 0, nowhere, here)
    for step in (*(side >> halvings for halvings in range(1, side.bit_length())), 1):
        padded = F.pad(nearest, (step,) * 4, value=nowhere)
        for down in (0, step, 2 * step):
            for right in (0, step, 2 * step):
                other = padded[..., down : down + side, right : right + side]
                nearer = (other - here).norm(dim=1, keepdim=True) < (nearest - here).norm(dim=1, keepdim=True)
                nearest = torch.where(nearer, other, nearest)
    return torch.where(nearest < nowhere, nearest - here, 0.0)


def stretch(somebody: Tensor, way: Tensor, margin: int) -> Tensor:
    """Where the room of an edit comes from, so that what is uncovered comes from what is seen.

    Args:
        somebody: 1 where the edit shows the person, else 0, (B, 1, 256, 256).
        way: `to_seen` of where the photo does not show the room, (B, 2, 256, 256).
        margin: pixels of 256 by which that is wider than the person, all round: who moves by less uncovers nothing.

    Returns:
        flow (B, 2, 256, 256), x and y in pixels of 256: 0 at the edges of the picture, and around a person who has not
        moved.
    """
    depth = way.norm(dim=1, keepdim=True)
    wanted = way * (1 + BEYOND / depth.clamp_min(1)) * between(depth, margin, 2 * margin)
    near = widened(somebody, OUTLINE)
    strip = near - somebody
    wanted = around(wanted * strip, SMOOTH) / around(strip, SMOOTH).clamp_min(HOLE)
    frame = F.pad(torch.zeros_like(near[..., FRAME:-FRAME, FRAME:-FRAME]), (FRAME,) * 4, value=1.0)
    return around(spread_out(near * paint_over(wanted, strip), torch.maximum(near, frame)), SMOOTH)


def spread_out(values: Tensor, fixed: Tensor) -> Tensor:
    """Values (B, C, 256, 256), changing as little as can be from place to place, between where they are fixed.

    The steepest change is the least possible (infinity harmonic): each place is half way between its greatest and its
    least neighbour (Oberman 2005, https://doi.org/10.1090/S0025-5718-04-01688-6). A harmonic surface, which is the
    smoothest on average, is steep around a head.
    """
    side = values.shape[-1]
    result = values.new_zeros(*values.shape[:2], COARSE_TO_FINE[0][0] // 2, COARSE_TO_FINE[0][0] // 2)
    for coarse, rounds in COARSE_TO_FINE:
        share = F.avg_pool2d(fixed, side // coarse)
        wanted = F.avg_pool2d(values * fixed, side // coarse) / share.clamp_min(HOLE)
        held = (share > WHOLLY).float()
        result = torch.lerp(upscale(result, 2), wanted, held)
        for _ in range(rounds):
            around_it = F.pad(result, (1,) * 4, mode="replicate")
            middle = (F.max_pool2d(around_it, 3, 1) - F.max_pool2d(-around_it, 3, 1)) / 2
            result = torch.lerp(middle, wanted, held)
    return upscale(result, side // coarse)
