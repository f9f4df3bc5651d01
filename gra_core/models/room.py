"""The room behind a person: what an edited head uncovers was never seen, and is painted from what is seen around it.

There the generator shows the room it has dreamt up for the code, which is rarely the photo's, and residuals of the
head that was there do not help. Painting over takes away what of its hair they leave behind, too. Busy rooms are
stretched (`stretching`).
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.images import from_bytes, to_bytes
from gra_core.models.editing import Edit
from gra_core.models.inpainting import BLURS, blurred, inpaint
from gra_core.models.maps import HOLE, around, between, narrowed, paint_over, sample_at, upscale, upscale_flow, widened
from gra_core.models.person import PERSON_SIZE, PersonNet
from gra_core.models.stretching import Beside, stretched

PERHAPS = 0.1
"""Certainty of the net from which on a photo may show the person, whose hair is not to be taken for room."""
PLACE_MARGIN = 10
"""So many pixels of 256 around the person count as the person's place: an edit leaves hair behind there."""
RIM = 4
"""Half the width, in pixels of 256, of that place's soft rim."""
SOMEBODY = 0.65
"""Certainty from which on a photo shows the person for sure."""
NOBODY, ANYBODY = 0.1, 0.4
"""Certainties up to which an edit shows the room, and from which on the person, whose shoulders before a dark wall are
never sure; hair lies between."""
STEP = 2
"""A person who moves by up to twice so many pixels of 256, as with a smile, uncovers nothing."""
REACH = 14
"""So many pixels of 256 around what is uncovered what is left behind is painted over."""
STRAY_REACH = 28
"""The same, of single hairs and the like before a plain wall."""
WALL_MARGIN = 6
"""So many pixels of 256 around the person are not looked at for the wall's colour."""
STRAY_MARGIN = 20
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
"""How little is known of a plate where the generator's room is better, and up to which the plate is: `Room.unknown`."""
MOST_BLUR = 8.0
"""Pixels of 256 by which the generator's room is out of focus, at most."""
SEEN_LEAST = 0.03
"""Of a photo that shows less of the room nothing is uncovered: the generator's is as good a guess, and of a piece."""
SURELY = 0.5
"""Certainty, of the net's second look, from which on a photo shows the person so that nothing of it is stretched."""
FAINT, DARKER = 0.35, 0.3
"""Contrast of the picture that the net looks at again, and by how much, in [-1, 1], it is darker. A flag that it took
for somebody at first it rarely takes for somebody then; shoulders it does."""
STRANDS = 5
"""So many pixels of 256 an outline can be beyond where it has moved to: hair and ears that come into view."""
INSIDE = 3
"""So many pixels of 256 inside of it the second look, which misses ears at the edge of a picture, is not asked."""


@dataclass(frozen=True, eq=False)
class Room:
    """What has to be known of a photo to uncover the room behind the person.

    Attributes:
        plate: the room without the person, (B, 3, 1024, 1024), uint8.
        place: where the person is, 1, and is not, 0, with a margin and a soft rim, (B, 1, 256, 256).
        stray: likewise, where single hairs and the like are before a plain wall, (B, 1, 256, 256).
        person: certainty that the photo shows the person, (B, 1, 256, 256).
        photo: (B, 3, 256, 256).
        unknown: how little is known of the plate, (B, 1, 256, 256), as from `inpaint`.
        surely: certainty of the second look at the person, (B, 1, 256, 256), `look_again`.
        beside: what the room is stretched from, if it is busy.
    """

    plate: Tensor
    place: Tensor
    stray: Tensor
    person: Tensor
    photo: Tensor
    unknown: Tensor
    surely: Tensor
    beside: Beside | None


def look_behind(net: PersonNet, photo: Tensor) -> Room:
    """The room of photos (B, 3, 1024, 1024) in [-1, 1]."""
    small = F.avg_pool2d(photo, photo.shape[-1] // PERSON_SIZE)
    person = net(small)
    perhaps = person > PERHAPS
    stray = strays(photo, perhaps)
    place = widened(perhaps, PLACE_MARGIN)
    hole = torch.maximum(place, stray)
    enough = ((1 - hole).mean((1, 2, 3), keepdim=True) > SEEN_LEAST).float()
    place, stray = enough * place, enough * stray
    plates = [room_plate(*one) for one in zip(photo.split(1), hole.split(1), strict=True)]
    plate, unknown, busy = (torch.cat(parts) for parts in zip(*plates, strict=True))
    surely = look_again(net, small)
    return Room(
        to_bytes(plate),
        softened(place),
        softened(widened(stray, RIM)),
        person,
        small,
        softened(unknown),
        surely,
        Beside.of(photo, plate, surely > SURELY, around(person, 3) >= ANYBODY, busy),
    )


def look_again(net: PersonNet, small: Tensor) -> Tensor:
    """Certainty that pictures (B, 3, 256, 256) show the person, (B, 1, 256, 256), even when they are faint."""
    faint = FAINT * small - DARKER
    return torch.minimum(net(faint), net(faint.flip(3)).flip(3))


def room_plate(photo: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A photo (1, 3, 1024, 1024) with the room in place of a hole (1, 1, 256, 256), which is 1 where there is one.

    And how little is known of it, and how busy it is, as from `inpaint`.
    """
    filled = inpaint(photo, hole)
    if filled is None:
        plate = paint_over(photo, 1 - F.interpolate(hole, size=photo.shape[-1]))
        return plate, 1 + (BLURS[-1] - 1) * hole, hole.new_zeros(1)
    return filled


def strays(photo: Tensor, perhaps: Tensor) -> Tensor:
    """What of the person the net misses before a plain wall: single hairs, curls, earrings.

    Args:
        photo: (B, 3, 1024, 1024) in [-1, 1].
        perhaps: where it may show the person, (B, 1, 256, 256).

    Returns:
        0 or 1, (B, 1, 256, 256); 0 where the wall is patterned, for a pattern is not to be taken for hair.
    """
    size = photo.shape[-1] // PERSON_SIZE
    small = F.avg_pool2d(photo, size)
    wall = 1 - widened(perhaps, WALL_MARGIN)
    for _ in range(2):
        colour = upscale(colour_around(small, wall), COARSE)
        wall = wall * (difference(small, colour) < STANDS_OUT)
    contrast = F.max_pool2d(difference(photo, upscale(colour, size)), size)
    nearby = widened(perhaps, STRAY_MARGIN)
    seen = mean_around(1 - nearby)
    usual = mean_around((1 - nearby) * contrast) / seen.clamp_min(HOLE)
    stands_out = contrast > upscale(usual.mul(TIMES_USUAL).clamp_min(STANDS_OUT), COARSE)
    plain = (seen > PLAIN_LEAST) & (mean_around((1 - nearby) * stands_out) < PLAIN_SHARE * seen)
    return widened(stands_out * nearby * ~perhaps * F.interpolate(plain.float(), scale_factor=COARSE), 1)


def difference(picture: Tensor, wall: Tensor) -> Tensor:
    """How much pictures (B, 3, S, S) differ from a wall's colours, (B, 1, S, S)."""
    return (picture - wall).abs().amax(1, keepdim=True)


def mean_around(x: Tensor) -> Tensor:
    """Means of x (B, 1, 256, 256) in a wide square around each place, (B, 1, 64, 64)."""
    return F.avg_pool2d(F.avg_pool2d(x, COARSE), PLAIN_WINDOW, 1, PLAIN_WINDOW // 2)


def colour_around(picture: Tensor, weight: Tensor) -> Tensor:
    """Colours of a picture (B, 3, S, S) around each of its places, smooth, where weight (B, 1, S, S) counts them.

    (B, 3, S / 4, S / 4); what is too far from all that counts gets the colours of what is near it.
    """
    total, share = (
        F.avg_pool2d(F.avg_pool2d(x, COARSE), WALL_WINDOW, 1, WALL_WINDOW // 2) for x in (picture * weight, weight)
    )
    return paint_over(total / share.clamp_min(HOLE), (share > HOLE).float())


def finished(net: PersonNet, edit: Edit, room: Room, *, turned: Tensor) -> Edit:
    """An edit with the room where it no longer shows the person, and only there.

    `turned`: how far the edit does nothing to the outline but move it, 0 to 1, (1, 1, 256, 256): the generator may take
    a wall for hair.
    """
    small = F.avg_pool2d(edit.picture, IMAGE_SIZE // PERSON_SIZE).clamp(-1, 1)
    person = net(small)
    side = max(edit.flows)
    flow = upscale_flow(edit.flows[side], PERSON_SIZE // side)
    edit = kept_apart(edit, person, sample_at(room.person, flow))
    believed = person
    if turned.any():
        moved = sample_at(room.surely, flow)
        outline = around(widened(moved, STRANDS), STRANDS)
        if room.beside is not None:
            inside = narrowed(around(moved, INSIDE), INSIDE)
            again = torch.maximum(look_again(net, small), inside)
            outline = torch.where(room.beside.busy, torch.minimum(outline, again), outline)
        believed = torch.lerp(person, torch.minimum(person, outline), turned)
    picture, share = uncover(edit.picture, person, believed, room)
    return replace(edit, picture=picture, keep=edit.keep * (1 - share))


def kept_apart(edit: Edit, person: Tensor, before: Tensor) -> Edit:
    """An edit without its pixels where they are the photo's of the room and it shows the person.

    Args:
        edit: the edit.
        person: certainty that it shows the person, (B, 1, 256, 256).
        before: certainty that the photo shows them at the place that each place comes from, (B, 1, 256, 256).
    """
    wrong = (person > SOMEBODY) & (before < NOBODY)
    if not wrong.any():
        return edit
    share = softened(widened(wrong, RIM))
    picture = torch.lerp(edit.picture, edit.before_pixels, upscale(share, IMAGE_SIZE // PERSON_SIZE))
    return replace(edit, picture=picture, keep=edit.keep * (1 - share))


def uncover(picture: Tensor, person: Tensor, believed: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """A picture (B, 3, 1024, 1024), about [-1, 1], with the room where it no longer shows the person.

    And how far it shows the room there, (B, 1, 256, 256).

    The room is in the light that the edit has given to what is seen of it. A busy one is stretched, unless that would
    be too far; where little is known of what is painted, it is what the generator has drawn, out of focus.

    Args:
        picture: the edit's picture.
        person: certainty that it shows the person, (B, 1, 256, 256).
        believed: the same, less where that is not to be believed.
        room: of the photo.
    """
    small = F.avg_pool2d(picture, IMAGE_SIZE // PERSON_SIZE)
    imagined = around(between(person - believed, NOBODY, ANYBODY), 3)
    empty = (around(person, 3) < NOBODY).float()
    person = around(believed, 3)  # its outline is stepped
    left = 1 - widened((room.person <= SOMEBODY) | (person >= NOBODY), STEP)
    near, further = (softened(widened(left, STEP + reach)) for reach in (REACH, STRAY_REACH))
    nobody = between(person, ANYBODY, NOBODY)
    place = torch.maximum(near * room.place, further * room.stray)
    place = torch.maximum(place, softened(widened(imagined, RIM)))
    tint = colour_around(small - room.photo, (1 - room.place) * empty)
    tint = upscale(tint, IMAGE_SIZE // tint.shape[-1])
    drawn = upscale(out_of_focus(small, empty, room.unknown), IMAGE_SIZE // PERSON_SIZE)
    known = upscale(between(room.unknown, *UNKNOWN), IMAGE_SIZE // PERSON_SIZE)
    plate = torch.lerp(drawn, from_bytes(room.plate) + tint, known)
    beside = None if room.beside is None else stretched(room.beside, (person >= ANYBODY).float())
    if beside is not None:
        wider, share = beside
        plate = torch.lerp(plate, wider + tint, upscale(share, IMAGE_SIZE // PERSON_SIZE))
        place = torch.maximum(place, share)
    share = upscale(place, IMAGE_SIZE // PERSON_SIZE) * along_edges(nobody, picture)
    return torch.lerp(picture, plate, share), F.avg_pool2d(share, IMAGE_SIZE // PERSON_SIZE)


def out_of_focus(picture: Tensor, seen: Tensor, blur: Tensor) -> Tensor:
    """What a picture (B, 3, S, S) shows where `seen` (B, 1, S, S) is 1, averaged over `blur` pixels (B, 1, S, S)."""
    total, share = blurred(torch.cat((picture * seen, seen), 1), blur.clamp(max=MOST_BLUR)).split((3, 1), 1)
    return (total + HOLE * picture) / (share + HOLE)


def along_edges(mask: Tensor, picture: Tensor) -> Tensor:
    """A mask (B, 1, S, S) at the size of a picture (B, 3, L, L), with the picture's outlines in place of its own.

    Guided filter (He et al., ECCV 2010) by brightness, fitted at the mask's size (https://arxiv.org/abs/1505.00996).
    Where the mask is 0, or 1, all around, it stays so.
    """
    mean = partial(around, side=2 * EDGE_REACH + 1)
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
    return around(mask, 2 * RIM + 1)
