"""Fills the background that an edit uncovers, from a clean plate: the photo with the person painted out.

The photo never showed what was behind the head. The generator draws a background of its own there, and the residuals
of the head do not help. The fill also removes hair that the residuals leave behind. Busy backgrounds are warped
(`background_warp`).
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.images import from_bytes, to_bytes
from gra_core.models.background_warp import WarpSource, warp_background
from gra_core.models.editing import Edit
from gra_core.models.inpainting import BLURS, blurred, inpaint
from gra_core.models.maps import HOLE, box_filter, dilate, erode, linstep, push_pull_fill, upscale, upscale_flow, warp
from gra_core.models.person import PERSON_SIZE, PersonNet

PERHAPS = 0.1
"""Certainty of the net from which on a photo may show the person; their hair must not count as background."""
MASK_MARGIN = 10
"""So many pixels of 256 around the person belong to the person mask: edits leave hair there."""
RIM = 4
"""Half the width, in pixels of 256, of the mask's soft rim."""
SOMEBODY = 0.65
"""Certainty from which on a photo shows the person for sure."""
NOBODY, ANYBODY = 0.1, 0.4
"""Certainties up to which an edit shows the background, and from which on the person. Shoulders before a dark wall
never reach more; hair lies between."""
STEP = 2
"""A person who moves by up to twice so many pixels of 256, as with a smile, uncovers nothing."""
FILL_MARGIN = 14
"""The fill reaches so many pixels of 256 around what is uncovered."""
HAIR_MARGIN = 28
"""The same, of single hairs and the like before a plain wall."""
WALL_MARGIN = 6
"""So many pixels of 256 around the person are not looked at for the wall's colour."""
HAIR_SEARCH = 20
"""So many pixels of 256 around the person what stands out from a plain wall is the person's, missed by the net."""
STANDS_OUT = 0.1
"""Difference from the wall, in [-1, 1], from which on something stands out from it, """
TIMES_USUAL = 4.0
"""and how many times as large as is usual further from the person it has to be."""
PLAIN_SHARE = 0.02
"""A wall is plain where, further from the person, no more of it stands out."""
COARSE = 4
"""A wall's colour and plainness are found on places of so many pixels of 256."""
WALL_WINDOW, PLAIN_WINDOW = 7, 33
"""Sides of the squares, in such places, in which they are found."""
PLAIN_LEAST = 0.02
"""So much of such a square has to be seen to say that the wall is plain."""
EDGE_REACH = 4
"""So many pixels of 256 from where the net sees the person's outline, it is looked for in the picture."""
EDGE_LEAST = 1e-3
"""Variance of brightness, in [-1, 1], that counts as an outline."""
UNKNOWN = (5.0, 2.0)
"""`Background.unknown` at which the generator's background is better, and up to which the clean plate is."""
MOST_BLUR = 8.0
"""Pixels of 256 by which the generator's background is out of focus, at most."""
SEEN_LEAST = 0.03
"""Where a photo shows less of the background, nothing is filled: the generator's is as good a guess, and of a piece."""
CERTAIN = 0.5
"""Certainty, with test-time augmentation, from which on the photo shows the person and is not warped."""
FAINT, DARKER = 0.35, 0.3
"""Test-time augmentation: factor of the contrast, and how much darker, in [-1, 1]. The net then rarely takes a flag for
a person, and still finds shoulders."""
STRANDS = 5
"""So many pixels of 256 an outline can be beyond where it has moved to: hair and ears that come into view."""
INSIDE = 3
"""So far inside of it, in pixels of 256, test-time augmentation is not asked: it misses ears at the picture's edge."""


@dataclass(frozen=True, eq=False)
class Background:
    """Data of a photo that the background fill needs.

    Attributes:
        clean_plate: the background without the person, (B, 3, 1024, 1024), uint8.
        person_mask: 1 where the person is, 0 elsewhere, with a margin and a soft rim, (B, 1, 256, 256).
        residual_hair: likewise, single hairs and the like before a plain wall, (B, 1, 256, 256).
        person: certainty that the photo shows the person, (B, 1, 256, 256).
        photo: (B, 3, 256, 256).
        unknown: how little is known of the clean plate, (B, 1, 256, 256), as from `inpaint`.
        certain: as `person`, with test-time augmentation, (B, 1, 256, 256), `person_augmented`.
        warp_source: what a busy background is warped from; None for a plain one.
    """

    clean_plate: Tensor
    person_mask: Tensor
    residual_hair: Tensor
    person: Tensor
    photo: Tensor
    unknown: Tensor
    certain: Tensor
    warp_source: WarpSource | None


def estimate_background(net: PersonNet, photo: Tensor) -> Background:
    """The background of photos (B, 3, 1024, 1024) in [-1, 1]."""
    small = F.avg_pool2d(photo, photo.shape[-1] // PERSON_SIZE)
    person = net(small)
    perhaps = person > PERHAPS
    residual_hair = find_residual_hair(photo, perhaps)
    person_mask = dilate(perhaps, MASK_MARGIN)
    hole = torch.maximum(person_mask, residual_hair)
    enough = ((1 - hole).mean((1, 2, 3), keepdim=True) > SEEN_LEAST).float()
    person_mask, residual_hair = enough * person_mask, enough * residual_hair
    plates = [make_clean_plate(*one) for one in zip(photo.split(1), hole.split(1), strict=True)]
    clean_plate, unknown, busy = (torch.cat(parts) for parts in zip(*plates, strict=True))
    certain = person_augmented(net, small)
    return Background(
        to_bytes(clean_plate),
        softened(person_mask),
        softened(dilate(residual_hair, RIM)),
        person,
        small,
        softened(unknown),
        certain,
        WarpSource.of(photo, clean_plate, certain > CERTAIN, box_filter(person, 3) >= ANYBODY, busy),
    )


def person_augmented(net: PersonNet, small: Tensor) -> Tensor:
    """Certainty that pictures (B, 3, 256, 256) show the person, (B, 1, 256, 256), even when they are faint."""
    faint = FAINT * small - DARKER
    return torch.minimum(net(faint), net(faint.flip(3)).flip(3))


def make_clean_plate(photo: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A photo (1, 3, 1024, 1024) with the background in place of a hole (1, 1, 256, 256), which is 1 in the hole.

    And how little is known of it, and how busy it is, as from `inpaint`.
    """
    filled = inpaint(photo, hole)
    if filled is None:
        clean_plate = push_pull_fill(photo, 1 - F.interpolate(hole, size=photo.shape[-1]))
        return clean_plate, 1 + (BLURS[-1] - 1) * hole, hole.new_zeros(1)
    return filled


def find_residual_hair(photo: Tensor, perhaps: Tensor) -> Tensor:
    """Mask of parts of the person that the net misses before a plain wall: single hairs, curls, earrings.

    Args:
        photo: (B, 3, 1024, 1024) in [-1, 1].
        perhaps: where it may show the person, (B, 1, 256, 256).

    Returns:
        0 or 1, (B, 1, 256, 256); 0 where the wall is patterned, for a pattern is not to be taken for hair.
    """
    size = photo.shape[-1] // PERSON_SIZE
    small = F.avg_pool2d(photo, size)
    wall = 1 - dilate(perhaps, WALL_MARGIN)
    for _ in range(2):
        colour = upscale(local_colour(small, wall), COARSE)
        wall = wall * (difference(small, colour) < STANDS_OUT)
    contrast = F.max_pool2d(difference(photo, upscale(colour, size)), size)
    nearby = dilate(perhaps, HAIR_SEARCH)
    seen = local_mean(1 - nearby)
    usual = local_mean((1 - nearby) * contrast) / seen.clamp_min(HOLE)
    stands_out = contrast > upscale(usual.mul(TIMES_USUAL).clamp_min(STANDS_OUT), COARSE)
    plain = (seen > PLAIN_LEAST) & (local_mean((1 - nearby) * stands_out) < PLAIN_SHARE * seen)
    return dilate(stands_out * nearby * ~perhaps * F.interpolate(plain.float(), scale_factor=COARSE), 1)


def difference(picture: Tensor, wall: Tensor) -> Tensor:
    """How much pictures (B, 3, S, S) differ from a wall's colours, (B, 1, S, S)."""
    return (picture - wall).abs().amax(1, keepdim=True)


def local_mean(x: Tensor) -> Tensor:
    """Means of x (B, 1, 256, 256) in a wide square around each place, (B, 1, 64, 64)."""
    return F.avg_pool2d(F.avg_pool2d(x, COARSE), PLAIN_WINDOW, 1, PLAIN_WINDOW // 2)


def local_colour(picture: Tensor, weight: Tensor) -> Tensor:
    """Colours of a picture (B, 3, S, S) around each of its places, smooth, where weight (B, 1, S, S) counts them.

    (B, 3, S / 4, S / 4); what is too far from all that counts gets the colours of what is near it.
    """
    total, share = (
        F.avg_pool2d(F.avg_pool2d(x, COARSE), WALL_WINDOW, 1, WALL_WINDOW // 2) for x in (picture * weight, weight)
    )
    return push_pull_fill(total / share.clamp_min(HOLE), (share > HOLE).float())


def composite(net: PersonNet, edit: Edit, background: Background, *, turned: Tensor) -> Edit:
    """An edit with the background where it no longer shows the person, and only there.

    `turned`: how far the edit does nothing to the outline but move it, 0 to 1, (1, 1, 256, 256): the generator may take
    a wall for hair.
    """
    small = F.avg_pool2d(edit.picture, IMAGE_SIZE // PERSON_SIZE).clamp(-1, 1)
    person = net(small)
    side = max(edit.flows)
    flow = upscale_flow(edit.flows[side], PERSON_SIZE // side)
    edit = drop_background_residual(edit, person, warp(background.person, flow))
    believed = person
    if turned.any():
        moved = warp(background.certain, flow)
        outline = box_filter(dilate(moved, STRANDS), STRANDS)
        if background.warp_source is not None:
            inside = erode(box_filter(moved, INSIDE), INSIDE)
            again = torch.maximum(person_augmented(net, small), inside)
            outline = torch.where(background.warp_source.busy, torch.minimum(outline, again), outline)
        believed = torch.lerp(person, torch.minimum(person, outline), turned)
    picture, share = fill_uncovered(edit.picture, person, believed, background)
    return replace(edit, picture=picture, keep=edit.keep * (1 - share))


def drop_background_residual(edit: Edit, person: Tensor, before: Tensor) -> Edit:
    """An edit without its pixels where they are the photo's of the background and it shows the person.

    Args:
        edit: the edit.
        person: certainty that it shows the person, (B, 1, 256, 256).
        before: certainty that the photo shows them at the place that each place comes from, (B, 1, 256, 256).
    """
    wrong = (person > SOMEBODY) & (before < NOBODY)
    if not wrong.any():
        return edit
    share = softened(dilate(wrong, RIM))
    picture = torch.lerp(edit.picture, edit.before_pixels, upscale(share, IMAGE_SIZE // PERSON_SIZE))
    return replace(edit, picture=picture, keep=edit.keep * (1 - share))


def fill_uncovered(picture: Tensor, person: Tensor, believed: Tensor, background: Background) -> tuple[Tensor, Tensor]:
    """A picture (B, 3, 1024, 1024), about [-1, 1], with the background where it no longer shows the person.

    And how far it shows the background there, (B, 1, 256, 256).

    The background gets the light that the edit gives to the visible part of it. A busy one is warped, unless that would
    stretch it too far. Where little is known of the clean plate, the generator's background is shown, out of focus.

    Args:
        picture: the edit's picture.
        person: certainty that it shows the person, (B, 1, 256, 256).
        believed: the same, less where that is not to be believed.
        background: of the photo.
    """
    small = F.avg_pool2d(picture, IMAGE_SIZE // PERSON_SIZE)
    imagined = box_filter(linstep(person - believed, NOBODY, ANYBODY), 3)
    empty = (box_filter(person, 3) < NOBODY).float()
    person = box_filter(believed, 3)  # its outline is stepped
    left = 1 - dilate((background.person <= SOMEBODY) | (person >= NOBODY), STEP)
    near, further = (softened(dilate(left, STEP + reach)) for reach in (FILL_MARGIN, HAIR_MARGIN))
    nobody = linstep(person, ANYBODY, NOBODY)
    mask = torch.maximum(near * background.person_mask, further * background.residual_hair)
    mask = torch.maximum(mask, softened(dilate(imagined, RIM)))
    source = background.warp_source
    warped = None if source is None else warp_background(source, (person >= ANYBODY).float())
    if warped is not None:
        mask = torch.maximum(mask, warped[1])
    if not mask.any():
        return picture, mask
    tint = local_colour(small - background.photo, (1 - background.person_mask) * empty)
    tint = upscale(tint, IMAGE_SIZE // tint.shape[-1])
    drawn = upscale(out_of_focus(small, empty, background.unknown), IMAGE_SIZE // PERSON_SIZE)
    known = upscale(linstep(background.unknown, *UNKNOWN), IMAGE_SIZE // PERSON_SIZE)
    clean_plate = torch.lerp(drawn, from_bytes(background.clean_plate) + tint, known)
    if warped is not None:
        wider, share = warped
        clean_plate = torch.lerp(clean_plate, wider + tint, upscale(share, IMAGE_SIZE // PERSON_SIZE))
    share = upscale(mask, IMAGE_SIZE // PERSON_SIZE) * along_edges(nobody, picture)
    return torch.lerp(picture, clean_plate, share), F.avg_pool2d(share, IMAGE_SIZE // PERSON_SIZE)


def out_of_focus(picture: Tensor, seen: Tensor, blur: Tensor) -> Tensor:
    """A picture (B, 3, S, S) where `seen` (B, 1, S, S) is 1, averaged over `blur` pixels (B, 1, S, S)."""
    total, share = blurred(torch.cat((picture * seen, seen), 1), blur.clamp(max=MOST_BLUR)).split((3, 1), 1)
    return (total + HOLE * picture) / (share + HOLE)


def along_edges(mask: Tensor, picture: Tensor) -> Tensor:
    """A mask (B, 1, S, S) at the size of a picture (B, 3, L, L), with the picture's outlines in place of its own.

    Guided filter (He et al., ECCV 2010) by brightness, fitted at the mask's size (https://arxiv.org/abs/1505.00996).
    Where the mask is 0, or 1, all around, it stays so.
    """
    mean = partial(box_filter, side=2 * EDGE_REACH + 1)
    factor = picture.shape[-1] // mask.shape[-1]
    brightness = picture.mean(1, keepdim=True)
    small = F.avg_pool2d(brightness, factor)
    light, share = mean(small), mean(mask)
    slope = (mean(small * mask) - light * share) / (mean(small.square()) - light.square() + EDGE_LEAST)
    level = share - slope * light
    slope, level = upscale(mean(torch.cat((slope, level), 1)), factor).split(1, 1)
    return (slope * brightness + level).clamp(0, 1)


def softened(mask: Tensor) -> Tensor:
    """A mask (B, 1, S, S) with a soft rim."""
    return box_filter(mask, 2 * RIM + 1)
