"""Filling a hole with what is around it."""

import torch
import torch.nn.functional as F

from gra_core.models.inpainting import inpaint
from gra_core.models.maps import push_pull_fill

SIDE = 1024
PERSON = 0.9


def disc(x: float = 0.5) -> torch.Tensor:
    """A hole of a third of the picture's width, (1, 1, 256, 256)."""
    axis = (torch.arange(256) + 0.5) / 256
    return ((axis[:, None] - 0.5).square() + (axis - x).square() < 0.17**2).float()[None, None]


def with_person(background: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """A background (1, 3, 1024, 1024) with something light before it."""
    return torch.lerp(background, torch.full_like(background, PERSON), F.interpolate(hole, size=SIDE))


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
    background, hole = stripes(), disc()
    photo, rim = with_person(background, hole), ring(0.13, 0.17)
    filled, *_ = inpaint(photo, hole)
    blurred = push_pull_fill(photo, 1 - F.interpolate(hole, size=SIDE))
    errors = [(picture - background).abs()[rim].mean() for picture in (filled, blurred)]
    assert errors[0] < 0.5 * errors[1]
    assert filled[rim].std() > 0.8 * background[rim].std()


def test_away_from_the_rim_what_catches_the_eye_is_out_of_focus_and_a_texture_is_not():
    torch.manual_seed(0)
    texture = F.interpolate(0.1 * torch.randn(1, 1, 256, 256), scale_factor=4).expand(1, 3, SIDE, SIDE)
    middle, hole = ring(0.0, 0.08), disc()
    contrasts = []
    for background in (stripes(), texture):
        filled, *_ = inpaint(with_person(background, hole), hole)
        contrasts.append((filled[middle].std() / background[middle].std()).item())
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
    background = torch.where(torch.arange(SIDE) < 700, -0.7, 0.2).expand(1, 3, SIDE, SIDE)
    hole = disc(0.76)
    filled, *_ = inpaint(with_person(background, hole), hole)
    assert filled.amax() < 0.5  # nothing of the person
    warp_source = filled[..., 480:544, 920:940]
    assert (warp_source - 0.2).abs().mean() < 0.2


def test_a_photo_full_of_the_person_is_given_up():
    assert inpaint(torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 1, 256, 256)) is None
