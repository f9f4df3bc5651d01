"""What is done to pictures, masks and flows."""

import pytest
import torch
import torch.nn.functional as F

from gra_core.models.maps import box_filter, dilate, erode, push_pull_fill, sizes, upscale_flow, warp


def test_warp_and_upscale_flow():
    source = torch.arange(64.0).view(1, 1, 8, 8)
    right = torch.zeros(1, 2, 8, 8)
    right[:, 0] = 1
    torch.testing.assert_close(warp(source, right)[..., :7], source[..., 1:])
    torch.testing.assert_close(warp(source, torch.zeros(1, 2, 8, 8)), source)
    assert upscale_flow(right, 4).shape == (1, 2, 32, 32)
    assert upscale_flow(right, 4)[0, 0].unique().tolist() == [4.0]


def test_what_is_eroded_is_so_all_round_but_at_the_edges_of_the_picture():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 6:] = 1
    inner = torch.zeros_like(mask)
    inner[..., 6:10, 8:] = 1
    assert torch.equal(erode(mask, 2), inner)
    assert torch.equal(dilate(inner, 2), mask)


def test_sizes_are_those_of_the_source():
    axis = torch.arange(64.0)
    narrower_and_taller = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None] * torch.tensor(
        [-0.5, 1.0]
    ).reshape(1, 2, 1, 1)
    least, most = sizes(narrower_and_taller)
    torch.testing.assert_close(least, torch.full_like(least, 0.5))
    torch.testing.assert_close(most, torch.full_like(most, 2.0))
    least, most = sizes(torch.full((1, 2, 64, 64), 3.0))
    assert torch.equal(least, most)
    assert (least == 1).all()


def test_painting_over_keeps_what_is_right_and_continues_it():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 20:44, 18:46] = 1
    spoilt = torch.where(hole > 0, torch.tensor(9.0), ramp)
    filled = push_pull_fill(spoilt, 1 - hole)
    assert torch.equal(filled * (1 - hole), ramp * (1 - hole))
    assert (filled - ramp).abs().max() < 0.5
    assert push_pull_fill(torch.full((1, 3, 32, 32), 9.0), torch.zeros(1, 1, 32, 32)).isfinite().all()


@pytest.mark.parametrize("side", [1, 3, 9, 15])
def test_windows_are_those_of_pooling(side):
    x = torch.randn(1, 2, 20, 30)
    mean = F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)
    torch.testing.assert_close(box_filter(x, side), mean)
    assert torch.equal(dilate(x, side // 2), F.max_pool2d(x, side, 1, side // 2))
    ones = torch.ones(1, 1, 20, 30)
    assert torch.equal(box_filter(ones, side), ones)


def test_one_picture_is_sampled_as_many_are():
    x, flow = torch.randn(1, 3, 16, 16), torch.randn(1, 2, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(warp(x, flow), warp(x.expand(2, -1, -1, -1), flow.expand(2, -1, -1, -1))[:1])
