"""What an edit does nothing but move is the photo itself, and only where the generator falls short of it."""

import pytest
import torch
import torch.nn.functional as F

from gra_core.images import from_bytes, to_bytes
from gra_core.models.editing import AlignmentSource, Edit
from gra_core.models.maps import upscale_flow, warp
from gra_core.models.photo_warp import PhotoWarp, flow_confidence, warp_photo

SIDE = 1024
STILL = torch.ones(1, 1, 256, 256)


@pytest.fixture(scope="module")
def photo():
    """A grey photo with a checked cap that the generator knows nothing of, (1, 3, 1024, 1024)."""
    checks = (torch.arange(SIDE)[:, None] // 16 + torch.arange(SIDE) // 16) % 2
    photo = torch.full((1, 3, SIDE, SIDE), 0.2)
    photo[..., 200:500, 300:700] = checks[200:500, 300:700] - 0.5
    return from_bytes(to_bytes(photo))


def drawn(photo: torch.Tensor) -> torch.Tensor:
    """What the stream draws of it: no checks."""
    return torch.where(cap(photo), 0.0, photo)


def cap(photo: torch.Tensor) -> torch.Tensor:
    """Where the cap is, 300 rows and 400 columns."""
    return (photo - 0.2).abs() > 0.1


def source_of(photo: torch.Tensor) -> AlignmentSource:
    picture = drawn(photo)
    return AlignmentSource((), (), F.avg_pool2d(picture, 4), photo - picture)


def edit_of(drawn: torch.Tensor, flow: torch.Tensor, picture: torch.Tensor | None = None) -> Edit:
    """An edit without pixels, unless `picture` has them."""
    return Edit(
        drawn if picture is None else picture,
        drawn,
        {64: flow[..., ::2, ::2] / 2, 128: flow},
        {},
        torch.zeros(1, 1, 256, 256),
    )


def shifted(positions: float) -> torch.Tensor:
    """Everything comes from so many positions further right, (1, 2, 128, 128)."""
    return torch.tensor([positions, 0.0])[None, :, None, None].expand(1, 2, 128, 128).clone()


def middle(picture: torch.Tensor) -> torch.Tensor:
    """The middle of the cap after it has moved left by eight positions, 64 pixels."""
    return picture[..., 260:440, 300:570]


def test_without_an_edit_the_photo_stays_as_it_is(photo):
    source = source_of(photo)
    edit = warp_photo(edit_of(drawn(photo), shifted(0), photo), source, PhotoWarp.of(photo, source), preserve=STILL)
    assert torch.allclose(edit.picture, photo, atol=1e-6)


def test_what_the_generator_cannot_draw_moves_as_it_is(photo):
    source, flow = source_of(photo), shifted(8)
    there = warp(drawn(photo), upscale_flow(flow, 8))
    noise = 0.1 * torch.randn(there.shape, generator=torch.Generator().manual_seed(1))
    result = warp_photo(edit_of(there + noise, flow), source, PhotoWarp.of(photo, source), preserve=STILL).picture
    wanted = warp(photo, upscale_flow(flow, 8))
    assert (middle(result) - middle(wanted)).abs().mean() < 0.01
    warp_source = (slice(None), slice(None), slice(600, 1000), slice(None))
    assert torch.equal(result[warp_source], (there + noise)[warp_source])  # the generator can draw this


def test_what_an_edit_changes_is_the_edits(photo):
    source, flow = source_of(photo), shifted(8)
    recoloured = warp(drawn(photo), upscale_flow(flow, 8)) + torch.tensor([0.8, 0.0, -0.4])[:, None, None]
    result = warp_photo(edit_of(recoloured, flow), source, PhotoWarp.of(photo, source), preserve=STILL).picture
    assert torch.equal(middle(result), middle(recoloured))


def test_detail_that_an_edit_adds_where_nothing_moves_stays(photo):
    """Teeth and wrinkles; where something moves, the generator's own detail differs from pose to pose."""
    source = source_of(photo)
    lines = torch.where(torch.arange(SIDE)[:, None] % 16 < 8, 0.15, -0.15)
    for moved in (0, 8):
        there = warp(drawn(photo), upscale_flow(shifted(moved), 8)) + lines
        result = warp_photo(edit_of(there, shifted(moved)), source, PhotoWarp.of(photo, source), preserve=STILL).picture
        assert torch.equal(middle(result), middle(there)) == (moved == 0)


def test_what_an_edit_takes_off_is_not_put_on_again(photo):
    """Of edits that may be about what does not move, such as glasses."""
    source = source_of(photo)
    bare = edit_of(drawn(photo), shifted(0))
    kept, taken_off = (
        warp_photo(bare, source, PhotoWarp.of(photo, source), preserve=preserve * STILL).picture for preserve in (1, 0)
    )
    assert (middle(kept) - middle(photo)).abs().mean() < 0.01
    assert torch.equal(taken_off, bare.picture)


def test_a_little_more_light_falls_on_what_is_moved(photo):
    source, flow = source_of(photo), shifted(8)
    lighter = warp(drawn(photo), upscale_flow(flow, 8)) + 0.1
    result = warp_photo(edit_of(lighter, flow), source, PhotoWarp.of(photo, source), preserve=STILL).picture
    wanted = warp(photo, upscale_flow(flow, 8)) + 0.1
    assert (middle(result) - middle(wanted)).abs().mean() < 0.01


def test_torn_correspondences_are_not_trusted(photo):
    torn = shifted(8)
    torn[:, 0, :, 64:] = -8
    trust = flow_confidence(torn)
    assert trust[..., 62:66].max() == 0
    assert trust[..., :50].min() == 1
    assert trust[..., 78:].min() == 1
    source = source_of(photo)
    there = warp(drawn(photo), upscale_flow(torn, 8))
    result = warp_photo(edit_of(there, torn), source, PhotoWarp.of(photo, source), preserve=STILL).picture
    seam = (slice(None), slice(None), slice(None), slice(63 * 8, 65 * 8))
    assert torch.equal(result[seam], there[seam])


def test_turning_is_trusted():
    """A head that turns is narrowed on one side and widened on the other, by less than half."""
    axis = torch.linspace(-1, 1, 128)
    flow = torch.stack((12 - 10 * axis.square().expand(128, 128), torch.zeros(128, 128)))[None]
    assert flow_confidence(flow).min() == 1
