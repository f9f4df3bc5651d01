"""The background behind the person: what an edit uncovers, and what it must leave alone."""

from dataclasses import replace

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gra_core import checkpoints
from gra_core.errors import CheckpointError
from gra_core.images import from_bytes, image_to_tensor
from gra_core.lab.directions import person as conversion
from gra_core.models.background import (
    DARKER,
    FAINT,
    Background,
    along_edges,
    composite,
    estimate_background,
    find_residual_hair,
)
from gra_core.models.editing import Edit
from gra_core.models.maps import dilate
from gra_core.models.person import PersonNet

SIDE = 1024


def as_bright_as_ever(picture: torch.Tensor) -> torch.Tensor:
    """Brightness (B, 1, S, S) of pictures here, whose walls are bright, also when they are looked at again, fainter."""
    value = picture.mean(1, keepdim=True)
    return value if value.max() > 0 else (value + DARKER) / FAINT


class Dark(nn.Module):
    """A net in the person net's place that takes what is darker than `below` for the person."""

    def __init__(self, below: float = 0.0) -> None:
        super().__init__()
        self.below = below

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, 256, 256) in [-1, 1] -> (B, 1, 256, 256)."""
        return (as_bright_as_ever(picture) < self.below).float()


def disc(size: int, x: float = 0.5) -> torch.Tensor:
    """A disc in the lower middle, or elsewhere from left to right, (1, 1, size, size)."""
    axis = (torch.arange(size) + 0.5) / size
    return ((axis[:, None] - 0.6).square() + (axis - x).square() < 0.25**2).float()[None, None]


def portrait(x: float) -> torch.Tensor:
    """Somebody dark before a wall that grows lighter from left to right, (1, 3, 1024, 1024)."""
    wall = torch.linspace(0.3, 0.7, SIDE).expand(1, 3, SIDE, SIDE)
    return torch.where(disc(SIDE, x) > 0, -0.5, wall)


def before_flags(x: float, brightness: float = -0.5) -> torch.Tensor:
    """Somebody dark before upright stripes, (1, 3, 1024, 1024)."""
    flags = torch.where((torch.arange(SIDE) // 48) % 2 > 0, 0.7, -0.2).expand(1, 3, SIDE, SIDE)
    return torch.where(disc(SIDE, x) > 0, brightness, flags)


def shrunk(mask: torch.Tensor, margin: int) -> torch.Tensor:
    """Where nothing within `margin` pixels is outside of a mask (1, 1, S, S) of 0 and 1."""
    outside = F.max_pool2d(1 - mask, (2 * margin + 1, 1), 1, (margin, 0))
    return F.max_pool2d(outside, (1, 2 * margin + 1), 1, (0, margin)) == 0


def shown(
    net: nn.Module,
    picture: torch.Tensor,
    background: Background,
    before_pixels: torch.Tensor | None = None,
    *,
    turned: float = 0.0,
) -> torch.Tensor:
    """An edit whose pixels stay in their places, finished."""
    preserve = torch.zeros(1, 2, 128, 128)
    before_pixels = picture if before_pixels is None else before_pixels
    edit = Edit(picture, before_pixels, {64: preserve[..., :64, :64], 128: preserve}, {}, torch.zeros(1, 1, 256, 256))
    return composite(net, edit, background, turned=torch.full((1, 1, 256, 256), turned)).picture


def test_what_a_person_who_moves_uncovers_is_room():
    before, after = portrait(0.4), portrait(0.6)
    wall = portrait(9.0)
    left_behind = (disc(SIDE, 0.4) - disc(SIDE, 0.6)).clamp_min(0)
    edit = torch.lerp(after, torch.full_like(after, 0.9), left_behind)  # too light there, and striped
    edit = edit - 0.2 * left_behind * (torch.arange(SIDE)[:, None] % 16 < 8)
    background = estimate_background(Dark(), before)
    result = shown(Dark(), edit, background)
    inside = shrunk(left_behind, 40)  # but for the seam
    assert inside.any()
    assert ((result - wall).abs() * inside).max() < 0.03
    assert ((edit - wall).abs() * inside).max() > 0.35
    person, rim = shrunk(disc(SIDE, 0.6), 44), shrunk(disc(SIDE, 0.6), 8)
    assert torch.equal(result * person, edit * person)  # as the edit has them
    assert ((result - edit).abs() * rim).max() < 0.02
    far = shrunk((1 - disc(SIDE, 0.4)) * (1 - disc(SIDE, 0.6)), 72)
    assert torch.equal(result * far, before * far)


class Unsure(nn.Module):
    """As `Dark`, but only half sure of what is a little darker than the wall."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, 256, 256) in [-1, 1] -> (B, 1, 256, 256)."""
        value = as_bright_as_ever(picture)
        return torch.where(value < -0.2, 1.0, 0.5 * (value < 0.2))


def test_a_shoulder_that_may_be_wall_does_not_fade():
    shoulder = shrunk((disc(SIDE, 0.4) - disc(SIDE, 0.6)).clamp_min(0), 40)
    edit = torch.where(shoulder, 0.0, portrait(0.6))
    result = shown(Unsure(), edit, estimate_background(Unsure(), portrait(0.4)))
    inside, rim = shrunk(shoulder.float(), 44), shrunk(shoulder.float(), 12)
    assert inside.any()
    assert torch.equal(result * inside, edit * inside)
    assert ((result - edit).abs() * rim).max() < 0.03


def test_what_is_uncovered_is_in_the_light_of_the_edit():
    before, after = portrait(0.4), portrait(0.6)
    lighter, uncovered = portrait(9.0) + 0.2, shrunk(1 - disc(SIDE, 0.6), 40)
    edit = torch.where(disc(SIDE, 0.6) > 0, after, after + 0.2)
    result = shown(Dark(), edit, estimate_background(Dark(), before))
    assert ((result - lighter).abs() * uncovered).max() < 0.05


def hair(x: float) -> torch.Tensor:
    """A single hair to the right of the disc's upper half, lighter than the person, (1, 1, 1024, 1024)."""
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    start = int(SIDE * (x + 0.25))
    return ((rows - 560).abs() < 2) * (columns >= start) * (columns < start + 60).float()[None, None]


def test_single_hairs_do_not_stay_where_a_person_was_before_a_plain_wall():
    before = torch.lerp(portrait(0.5), torch.full((1, 3, SIDE, SIDE), 0.1), hair(0.5))
    after, wall = portrait(0.4), portrait(9.0)
    edit = torch.lerp(after, before, hair(0.5))
    result = shown(Dark(), edit, estimate_background(Dark(), before))
    assert (hair(0.5) * (edit - wall).abs()).max() > 0.3
    assert (hair(0.5) * (result - wall).abs()).max() < 0.1


def test_hair_close_by_does_not_stay_before_a_pattern_either():
    def striped(picture: torch.Tensor) -> torch.Tensor:
        return picture - 0.3 * (picture > 0.25) * (torch.arange(SIDE)[:, None] % 64 < 32)

    near = hair(0.5) * (torch.arange(SIDE) < 0.75 * SIDE + 24)
    plain, wall = striped(portrait(0.5)), striped(portrait(9.0))
    before = torch.lerp(plain, torch.full_like(plain, -0.4), near)
    edit = torch.lerp(striped(portrait(0.4)), before, near)
    background = estimate_background(Dark(), before)
    pieces = shown(Dark(), edit, replace(background, warp_source=None))
    left, found = (((near * (x - wall)).abs().sum() / (3 * near.sum())).item() for x in (edit, pieces))
    assert left > 0.6
    assert found < 0.2
    result = shown(Dark(), edit, background)  # stretched, so the stripes have moved
    left, found = (((x < -0.1) * near).sum() / (3 * near.sum()) for x in (edit, result))
    assert left > 0.9
    assert found < 0.05


def test_a_person_has_no_pixels_of_the_room():
    before, after = portrait(0.5), portrait(0.4)
    came = (disc(SIDE, 0.4) - disc(SIDE, 0.5)).clamp_min(0)
    stained = after - 0.1 * came  # with what the photo has of the wall there
    result = shown(Dark(), stained, estimate_background(Dark(), before), before_pixels=after)
    inside = shrunk(came, 8)
    assert inside.any()
    assert torch.equal(result * inside, after * inside)
    stayed = shrunk(disc(SIDE, 0.4) * disc(SIDE, 0.5), 40)
    assert torch.equal(
        shown(Dark(), stained, estimate_background(Dark(), before), after + 0.05) * stayed, stained * stayed
    )


def test_a_pattern_is_not_taken_for_hair():
    photo = portrait(0.5)
    perhaps = Dark()(F.avg_pool2d(photo, 4)) > 0
    beyond_the_rim = dilate(perhaps, 3) == 0
    with_hair = torch.lerp(photo, torch.full_like(photo, 0.1), hair(0.5))
    striped = photo - 0.3 * (photo > 0) * (torch.arange(SIDE)[:, None] % 64 < 4)
    plain, one_hair, pattern = (
        (find_residual_hair(x, perhaps) * beyond_the_rim).any() for x in (photo, with_hair, striped)
    )
    assert one_hair
    assert not plain
    assert not pattern


def test_an_outline_that_moves_a_little_uncovers_nothing():
    edit = portrait(0.4 + 2 / 256)
    assert torch.equal(shown(Dark(), edit, estimate_background(Dark(), portrait(0.4))), edit)


def test_an_edit_that_changes_nothing_stays_the_photo():
    photo = portrait(0.4)
    assert torch.equal(shown(Dark(), photo, estimate_background(Dark(), photo)), photo)


def test_of_a_busy_room_the_generators_own_is_shown_away_from_the_rim_and_of_a_plain_one_it_is_not():
    pattern = 0.9 * ((torch.arange(SIDE)[:, None] + torch.arange(SIDE) * 2) % 192 < 96) - 0.2
    middle = shrunk(disc(SIDE, 0.3), 140)
    assert middle.any()
    shares = []
    for wall in (torch.full((1, 3, SIDE, SIDE), 0.3), pattern.expand(1, 3, SIDE, SIDE)):
        before, after = (torch.where(disc(SIDE, x) > 0, -0.5, wall) for x in (0.3, 0.8))
        drawn = torch.where(disc(SIDE, 0.3) > 0, 0.75, after)
        net = Dark(below=-0.35)  # a part of the background is dark, the person is darker
        result = shown(net, drawn, estimate_background(net, before))
        shares.append(((result - 0.75).abs() * middle).sum() / (3 * middle.sum()))
    assert shares[0] > 0.4
    assert shares[1] < 0.1


def test_a_busy_room_is_stretched_and_stays_sharp():
    before, after = (before_flags(x) for x in (0.45, 0.6))
    uncovered = disc(SIDE, 0.45) * (1 - disc(SIDE, 0.6)) * (torch.arange(SIDE) < SIDE // 2) > 0
    net, drawn = Dark(below=-0.3), torch.where(uncovered, 0.25, after)
    result = shown(net, drawn, estimate_background(net, before))
    inside = shrunk(uncovered.float(), 16)
    assert inside.any()
    to_stripes = torch.minimum((result - 0.7).abs(), (result + 0.2).abs())
    assert ((to_stripes < 0.1) & inside).sum() > 0.8 * inside.sum() * 3
    both = [((result - colour).abs() < 0.1)[:, :1][inside].float().mean() for colour in (0.7, -0.2)]
    assert min(both) > 0.15
    right = (torch.arange(SIDE) > 950).expand(1, 3, SIDE, SIDE)
    assert (result - before)[right].abs().max() < 0.01  # where the head has gone to


def test_a_busy_room_stays_without_an_edit_whatever_a_second_look_finds():
    photo = before_flags(0.45)

    class FindsMore(Dark):
        """Takes all of the lower half for the person, but only where the picture is faint."""

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            found = super().forward(picture)
            if picture.max() <= 0:
                found[:, :, 128:] = 1
            return found

    net = FindsMore(below=-0.3)
    background = estimate_background(net, photo)
    assert background.warp_source is not None
    assert background.certain[..., 128:, :].min() == 1
    assert torch.equal(shown(net, photo, background), photo)


def test_an_ear_that_the_second_look_misses_stays_before_a_busy_room():
    before, edit = (before_flags(0.45, brightness) for brightness in (-0.5, -0.6))

    class MissesRight(Dark):
        """Finds nobody in what is right of the middle, but only where the picture is faint."""

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            found = super().forward(picture)
            if picture.max() <= 0:
                found[..., 140:] = 0
            return found

    background = estimate_background(Dark(below=-0.3), before)
    assert background.warp_source is not None
    result = shown(MissesRight(below=-0.3), edit, background, turned=1.0)
    inside = shrunk(disc(SIDE, 0.45), 64)
    assert inside[..., 600:].any()
    assert torch.equal(result * inside, edit * inside)


def test_hair_that_only_a_turned_head_has_is_wall():
    before, after = portrait(0.5), portrait(0.4)
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    hair = ((rows - 500).abs() < 60) & (columns >= 820) & (columns < 940)  # beyond where the head was
    edit = torch.where(hair, -0.4, after)
    turned, grown = (shown(Dark(), edit, estimate_background(Dark(), before), turned=share) for share in (1.0, 0.0))
    inside = shrunk(hair.expand(1, 1, SIDE, SIDE).float(), 16)
    assert ((turned - portrait(9.0)).abs() * inside).max() < 0.1
    assert torch.equal(grown * inside, edit * inside)  # longer hair is what an edit may be about


def test_an_outline_follows_strands_of_hair():
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    strands = (columns >= 448) & (columns < 480) & (rows % 32 < 16)
    wall = ((columns >= 480) | ((columns >= 448) & ~strands)).float()[None, None]
    picture = (wall - 0.5).expand(1, 3, SIDE, SIDE)
    mask = F.avg_pool2d(wall, 32).repeat_interleave(8, 2).repeat_interleave(8, 3)  # sees no strands
    found, coarse = along_edges(mask, picture), F.interpolate(mask, scale_factor=4)
    linstep = ((columns >= 448) & (columns < 480)).expand(SIDE, SIDE)[None, None]
    assert coarse[linstep & (wall > 0)].mean() - coarse[linstep & (wall == 0)].mean() < 0.01
    assert found[linstep & (wall > 0)].mean() - found[linstep & (wall == 0)].mean() > 0.2
    assert torch.equal(found[..., :360], torch.zeros(1, 1, SIDE, 360))
    assert found[..., 600:].min() > 0.9999


def test_a_room_of_which_next_to_nothing_is_seen_is_left_to_the_generator():
    everywhere = torch.full((1, 3, SIDE, SIDE), -0.5)
    everywhere[..., :40, :40] = 0.9
    edit = portrait(0.5)
    assert torch.equal(shown(Dark(), edit, estimate_background(Dark(), everywhere)), edit)


def test_where_nobody_is_found_nothing_is_painted():
    photo = portrait(9.0)
    background = estimate_background(Dark(), photo)
    torch.testing.assert_close(from_bytes(background.clean_plate), photo, atol=0.005, rtol=0)
    edit = photo + 0.2
    assert torch.equal(shown(Dark(), edit, background), edit)


def test_the_person_net_finds_the_person(face):
    net = checkpoints.CheckpointSource().load(checkpoints.PERSON, PersonNet())
    person = net(F.avg_pool2d(image_to_tensor(face), 2))[0, 0]
    assert person.shape == (256, 256)
    assert person[110:180, 100:160].min() > 0.9  # the face
    assert person[:20, :20].max() < 0.1
    assert 0.3 < person.mean() < 0.9


def graph_of(net: PersonNet, single: str) -> bytes:
    """An ONNX graph with the net's weights in order, and behind each bias a number of an activation, as `single`."""
    nodes, values = [], {single: torch.tensor([3.0])}
    for name, value in net.state_dict().items():
        values[name] = value
        last = name.startswith("last")
        kind = "Add" if name.endswith("bias") else "ConvTranspose" if last else "Conv"
        nodes.append(helper.make_node(kind, ["x", name], [f"of {name}"]))
        if kind == "Add" and not last:
            nodes.append(helper.make_node("Add", ["x", single], [f"behind {name}"]))
    source = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(value.numpy(), name) for name, value in values.items()]
    return helper.make_model(helper.make_graph(nodes, "net", source, [], constants)).SerializeToString()


def test_the_person_net_is_converted_layer_by_layer(tmp_path, monkeypatch):
    (tmp_path / "selfie.json").touch()
    net = PersonNet()
    monkeypatch.setattr(conversion, "translate", lambda *_: graph_of(net, "three"))
    converted = conversion.person_net(tmp_path).state_dict()
    assert all(torch.equal(converted[name], value) for name, value in net.state_dict().items())


def test_another_net_is_not_converted(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="human-models"):
        conversion.person_net(tmp_path)
    (tmp_path / "selfie.json").touch()
    other = onnx.load_from_string(graph_of(PersonNet(), "three"))
    del other.graph.node[2:4]
    monkeypatch.setattr(conversion, "translate", lambda *_: other.SerializeToString())
    with pytest.raises(CheckpointError, match="layers differ"):
        conversion.person_net(tmp_path)
