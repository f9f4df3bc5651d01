"""Filling a hole with what is around it."""

import torch
import torch.nn.functional as F

from gra_core.models.inpainting import inpaint
from gra_core.models.maps import paint_over

SIDE = 1024
PERSON = 0.9


def disc(x: float = 0.5) -> torch.Tensor:
    """A hole of a third of the picture's width, (1, 1, 256, 256)."""
    axis = (torch.arange(256) + 0.5) / 256
    return ((axis[:, None] - 0.5).square() + (axis - x).square() < 0.17**2).float()[None, None]


def with_person(room: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """A room (1, 3, 1024, 1024) with something light before it."""
    return torch.lerp(room, torch.full_like(room, PERSON), F.interpolate(hole, size=SIDE))


def stripes() -> torch.Tensor:
    """Slanted dark stripes on a wall that grows lighter from left to right, (1, 3, 1024, 1024)."""
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    dark = ((columns + rows / 2) % 96 < 40).float()
    return (columns / SIDE * 0.4 - 0.6 * dark).expand(1, 3, SIDE, SIDE)


def ring(inner: float, outer: float) -> torch.Tensor:
    """Where a picture is further than `inner` and no further than `outer` from its centre, (1, 3, 1024, 1024)."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    distance = torch.sqrt(axis[:, None].square() + axis.square())
    return ((distance > inner) & (distance <= outer)).expand(1, 3, SIDE, SIDE)


def test_a_pattern_is_continued():
    room, hole = stripes(), disc()
    photo, rim = with_person(room, hole), ring(0.13, 0.17)
    filled, *_ = inpaint(photo, hole)
    blurred = paint_over(photo, 1 - F.interpolate(hole, size=SIDE))
    errors = [(picture - room).abs()[rim].mean() for picture in (filled, blurred)]
    assert errors[0] < 0.5 * errors[1]
    assert filled[rim].std() > 0.8 * room[rim].std()


def test_away_from_the_rim_what_catches_the_eye_is_out_of_focus_and_a_texture_is_not():
    torch.manual_seed(0)
    texture = F.interpolate(0.1 * torch.randn(1, 1, 256, 256), scale_factor=4).expand(1, 3, SIDE, SIDE)
    middle, hole = ring(0.0, 0.08), disc()
    contrasts = []
    for room in (stripes(), texture):
        filled, *_ = inpaint(with_person(room, hole), hole)
        contrasts.append((filled[middle].std() / room[middle].std()).item())
    assert contrasts[0] < 0.5
    assert contrasts[1] > 0.7


def test_what_is_not_in_the_hole_stays():
    photo, hole = with_person(stripes(), disc()), disc()
    filled, *_ = inpaint(photo, hole)
    outside = F.interpolate(hole, size=SIDE).expand_as(photo) == 0
    assert torch.equal(filled[outside], photo[outside])


def test_an_even_wall_stays_even():
    wall = torch.linspace(-0.3, 0.6, SIDE).expand(1, 3, SIDE, SIDE)
    filled, *_ = inpaint(with_person(wall, disc()), disc())
    assert (filled - wall).abs().max() < 0.02


def test_two_walls_meet_behind_the_hole_whatever_side_shows_more():
    # Beside the hole no more than a strip of the lighter wall is seen.
    room = torch.where(torch.arange(SIDE) < 700, -0.7, 0.2).expand(1, 3, SIDE, SIDE)
    hole = disc(0.76)
    filled, *_ = inpaint(with_person(room, hole), hole)
    assert filled.amax() < 0.5  # nothing of the person
    beside = filled[..., 480:544, 920:940]
    assert (beside - 0.2).abs().mean() < 0.2


def test_a_photo_full_of_the_person_is_given_up():
    assert inpaint(torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 1, 256, 256)) is None
