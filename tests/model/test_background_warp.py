"""How a background stretches: from where, how evenly, and not where nobody has moved."""

import torch
from torch import Tensor

from gra_core.models.background_warp import OUTLINE, UNCOVERED, background_flow, infinity_harmonic, nearest_seen
from gra_core.models.maps import dilate, linstep, magnitude, sizes, warp
from gra_core.models.person import PERSON_SIZE


def disc(x: float, radius: float = 50.0) -> Tensor:
    """Somebody in the middle, or elsewhere from left to right, (1, 1, 256, 256)."""
    axis = torch.arange(PERSON_SIZE) + 0.5
    return ((axis - x).square() + (axis[:, None] - 128).square() < radius**2).float()[None, None]


def test_the_way_to_what_is_seen_is_the_shortest():
    hole = torch.ones(1, 1, 32, 32)
    hole[..., :6, :20], hole[..., 25:, 10:12], hole[..., 14, 30] = 0, 0, 0
    rows, columns = (hole[0, 0] == 0).nonzero(as_tuple=True)
    axis = torch.arange(32.0)
    every = ((axis[:, None, None] - rows).square() + (axis[:, None] - columns).square()).sqrt()
    way = nearest_seen(hole)
    torch.testing.assert_close(way.norm(dim=1)[0], every.amin(2))
    assert (warp(hole, way) < 1e-4).all()
    assert not nearest_seen(torch.ones(1, 1, 32, 32)).any()


def test_what_is_spread_out_is_nowhere_much_steeper_than_it_has_to_be():
    somebody, frame = disc(128, 30), torch.ones(1, 1, PERSON_SIZE, PERSON_SIZE)
    frame[..., 4:-4, 4:-4] = 0
    spread = infinity_harmonic(40 * somebody, torch.maximum(somebody, frame))
    assert spread[..., 120:136, 120:136].min() > 39
    assert spread[..., 0].abs().max() < 1
    steepest = spread[0, 0].diff(dim=1).abs().max()
    assert steepest < 1.5 * 40 / (124 - 30)  # a harmonic surface: 2.2 times, 1 / (30 ln(124 / 30))


def test_beside_somebody_who_moved_is_what_was_seen_beside_them():
    way = nearest_seen(disc(108, 60)) * linstep(magnitude(nearest_seen(disc(108))), *UNCOVERED)
    after = disc(148)
    flow = background_flow(after, way)
    strip = (dilate(after, OUTLINE) - after) * disc(108, 60)
    left_behind = (after.cumsum(3) == 0) * ((torch.arange(PERSON_SIZE)[:, None] - 128).abs() < 30)
    strip = strip * left_behind
    assert strip.sum() > 200
    hidden = warp(disc(108, 60), flow)
    assert (hidden * strip).sum() / strip.sum() < 0.25
    assert flow[..., 100:156, 148 - 52].mean(2)[0, 0] < -20
    assert flow[..., :4, :].norm(dim=1).max() < 1
    least, _ = sizes(flow)
    assert least[..., 100:156, 8:80].min() > 0.35  # everything is stretched, nothing by much


def test_around_somebody_who_stays_nothing_is_stretched():
    way = nearest_seen(disc(108, 60)) * linstep(magnitude(nearest_seen(disc(108))), *UNCOVERED)
    assert not background_flow(disc(108), way).any()
    assert background_flow(disc(110), way).abs().max() < 4
