"""Warps the photo along the flow where the edit only moves it: hats, scarves, the frames of glasses, the eyes.

The generator draws each edit anew, and residuals add what it lacks of the photo. Where nothing moves, both add up to
the photo. Where something moves, they do not: the generator draws other strands of hair in each pose, and takes a hat
for hair. So the photo is shown, warped along the finest flow and in the colours of the edit, where all of this holds:

- the generator differs from the photo: by much, or, where it moves, by much of the contrast;
- the flow is certain: neighbours move alike;
- the edit only moves it: the unedited picture of the stream, warped, looks like the edit, and what does not move gains
  no detail, such as teeth and wrinkles.

Nothing of this is learned.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.images import from_bytes, to_bytes
from gra_core.models.editing import PIXEL_GATE_SIDE, AlignmentSource, Edit
from gra_core.models.maps import box_filter, dilate, erode, linstep, magnitude, sizes, upscale, upscale_flow, warp

WINDOW = 9
"""Side of the squares, in pixels of 256, over which picture and photo are compared."""
LACKS = (0.05, 0.1)
"""Mean absolute differences, in [-1, 1], between which the generator begins to fall short of a photo by much."""
LACKS_OF_CONTRAST = (0.5, 0.8)
"""The same, as shares of the photo's contrast, """
LEAST_CONTRAST = 0.03
"""which is taken to be more by this."""
MOVES = (1.0, 3.0)
"""Positions of the finest stage by which something moves."""
STRETCHED, SQUEEZED = (0.45, 0.65), (2.2, 1.8)
"""Sizes, in the photo, of what the edit shows at size 1, at which a correspondence is not, and is, to be trusted:
little of a cheek seen from the side is not enough for a whole one, and what is left out between neighbours is torn."""
ROUGH = (0.6, 0.25)
"""The same, differences from the mean of a square around, in positions of the finest stage; """
ROUGH_WINDOW = 7
"""its side."""
CHANGES = (0.35, 0.15)
"""Changes of colour, in [-1, 1], from which on, and up to which, an edit does, and does not, do more than to move."""
GAINS = (1.4, 1.1)
"""The same, factors by which what does not move gains detail, """
LEAST_DETAIL = 0.02
"""which is taken to be more by this."""
DETAIL_WINDOW = 5
"""Side of the squares, in pixels of 256, that detail is finer than."""
COLOUR_WINDOW = 15
"""Side of the squares, in pixels of 256, whose mean colours are the edit's."""
WIDER, SOFT = 5, 7
"""Sides of the squares, in pixels of 256, by which what is lacking is widened, and the photo's share softened."""


@dataclass(frozen=True, eq=False)
class PhotoWarp:
    """A photo, and where the generator falls short of it.

    Attributes:
        photo: (B, 3, 1024, 1024), uint8.
        lacking: how far by much, and how far by much of the photo's contrast, 0 to 1, (B, 2, 256, 256).
    """

    photo: Tensor
    lacking: Tensor

    @classmethod
    def of(cls, photo: Tensor, source: AlignmentSource) -> Self:
        """Of photos (B, 3, 1024, 1024) in [-1, 1] and what the Editing Stream makes of them without an edit."""
        factor = IMAGE_SIZE // PIXEL_GATE_SIDE
        difference = box_filter(F.avg_pool2d(source.pixels.abs().mean(1, keepdim=True), factor), WINDOW)
        share = difference / (contrast(F.avg_pool2d(photo, factor), WINDOW) + LEAST_CONTRAST)
        return cls(to_bytes(photo), torch.cat((linstep(difference, *LACKS), linstep(share, *LACKS_OF_CONTRAST)), 1))


def warp_photo(edit: Edit, source: AlignmentSource, photo_warp: PhotoWarp, *, preserve: Tensor) -> Edit:
    """An edit that shows the photo where it does nothing but move what the generator falls short of.

    Args:
        edit: what the Editing Stream makes of the photo.
        source: the stream's view of the photo.
        photo_warp: the photo, of `PhotoWarp.of`.
        preserve: how far the photo is shown where nothing moves, too, 0 to 1, (1, 1, 256, 256).
    """
    finest = max(edit.flows)
    factor, finer = IMAGE_SIZE // PIXEL_GATE_SIDE, PIXEL_GATE_SIDE // finest
    flow = box_filter(edit.flows[finest], 3)
    small_flow = upscale_flow(flow, finer)
    by_much, by_contrast = warp(photo_warp.lacking, small_flow).split(1, 1)
    moves = upscale(linstep(magnitude(flow), *MOVES), finer)
    lacking = torch.maximum(by_much * torch.maximum(moves, preserve), by_contrast * moves)
    lacking = box_filter(dilate(lacking, WIDER // 2), WIDER)
    before, after = warp(source.image, small_flow), F.avg_pool2d(edit.before_pixels, factor)
    same = linstep(box_filter(after - before, WINDOW).abs().amax(1, keepdim=True), *CHANGES)
    gained, had = (contrast(x, DETAIL_WINDOW) + LEAST_DETAIL for x in (after, before))
    same = same * torch.maximum(linstep(gained / had, *GAINS), moves)
    share = box_filter(lacking * same * upscale(flow_confidence(flow), finer), SOFT)
    if not share.any():
        return edit
    photo = warp(from_bytes(photo_warp.photo), upscale_flow(flow, IMAGE_SIZE // finest))
    photo = photo + upscale(box_filter(after - before, COLOUR_WINDOW), factor)
    picture = torch.lerp(edit.picture, photo, upscale(share, factor))
    return replace(edit, picture=picture, keep=torch.maximum(edit.keep, share))


def flow_confidence(flow: Tensor) -> Tensor:
    """How far a correspondence (B, 2, S, S), in positions, can be trusted, 0 to 1, (B, 1, S, S)."""
    least, most = sizes(box_filter(flow, 5))
    whole = linstep(least, *STRETCHED) * linstep(most, *SQUEEZED)
    whole = box_filter(erode(whole, 2), 3)
    margin = ROUGH_WINDOW // 2
    inner = flow[..., margin:-margin, margin:-margin]
    rough = (inner - F.avg_pool2d(flow, ROUGH_WINDOW, 1)).abs().amax(1, keepdim=True)
    rough = box_filter(F.pad(rough, (margin,) * 4, mode="replicate"), 3)
    return whole * linstep(rough, *ROUGH)


def contrast(picture: Tensor, side: int) -> Tensor:
    """Contrast of pictures (B, 3, S, S) within the square of `side` around each place, (B, 1, S, S)."""
    return box_filter((picture - box_filter(picture, side)).abs().mean(1, keepdim=True), side)
