"""Methods side by side."""

import numpy as np
import pytest
from PIL import Image

from gra_core.comparison import METHODS, Comparison, compare, figures
from gra_core.heatmaps import flow_map, heat_map
from gra_core.images import tensor_to_image
from gra_core.models.layers import STAGES
from gra_core.ui.contact_sheet import Row, draw_sheet


@pytest.fixture(scope="module")
def crop(face) -> Image.Image:
    return face.resize((1024, 1024))


@pytest.fixture(scope="module")
def still(editor, crop):
    return compare(editor, crop, {})


@pytest.fixture(scope="module")
def turned(editor, crop):
    return compare(editor, crop, {"yaw": 70.0})


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def apart(comparison: Comparison, one: str, other: str) -> np.ndarray:
    one, other = (np.asarray(comparison.pictures[name], np.float32).ravel() for name in (one, other))
    return one - other


def test_columns_are_what_they_say(editor, crop, turned):
    assert list(turned.pictures) == list(METHODS)
    inversion = editor.invert(crop)
    assert turned.pictures["input"] is crop
    assert difference(turned.pictures["gra"], editor.edit(inversion, {"yaw": 70.0})) < 0.01
    assert difference(turned.pictures["low_rate"], editor.low_rate(inversion, {"yaw": 70.0})) < 0.01
    assert {picture.size for picture in turned.pictures.values()} == {(1024, 1024)}


def test_alignment_matters_only_when_something_moves(editor, crop, still, turned):
    """Without an edit nothing has to be aligned; after a turn, what is not aligned stays where it was."""
    assert difference(still.pictures["gradual"], still.pictures["gra"]) < 1
    assert difference(turned.pictures["gradual"], turned.pictures["gra"]) > 5
    to_input = {name: difference(picture, turned.pictures["input"]) for name, picture in turned.pictures.items()}
    assert to_input["gradual"] < to_input["gra"]
    codes = editor.edited_codes(editor.invert(crop), {"yaw": 70.0})  # the low-rate ones let go of nothing
    assert to_input["one_shot"] < difference(tensor_to_image(editor.generator(codes)), turned.pictures["input"])
    lacking = apart(still, "input", "low_rate")

    def stays(name: str) -> float:
        """Correlation of what a method adds to the turned code's picture with what the code's lacked of the photo."""
        return float(np.corrcoef(apart(turned, name, "low_rate"), lacking)[0, 1])

    assert stays("gradual") > stays("gra") + 0.1
    assert stays("one_shot") > 0.1


def test_one_shot_repairs_less_than_all_stages(still):
    errors = {name: difference(picture, still.pictures["input"]) for name, picture in still.pictures.items()}
    assert errors["gra"] < errors["one_shot"] < errors["low_rate"]


def test_maps_of_each_stage(still, turned):
    assert [stage.side for stage in turned.stages] == list(STAGES)
    for rest, stage in zip(still.stages, turned.stages, strict=True):
        assert stage.farthest > 20
        assert stage.farthest > 5 * rest.farthest
        assert stage.residual.size == stage.aligned.size == stage.flow.size
        assert difference(stage.residual, stage.aligned) > 0


def test_figures(still, turned, random_lpips):
    measured = figures(turned, random_lpips)
    assert list(measured) == [name for name in METHODS if name != "input"]
    unedited = figures(still, None)
    assert unedited["gra"]["identity"] < 0.1 < unedited["low_rate"]["identity"]
    assert all(value >= 0 for row in measured.values() for value in row.values())
    assert figures(turned, None)["gra"]["lpips"] is None


def test_colours_of_maps():
    heat = np.asarray(heat_map(np.array([[0.0, 0.5], [1.0, 9.0]]), 1.0, side=2)).astype(int).sum(-1)
    assert heat[0, 0] < heat[0, 1] < heat[1, 0] == heat[1, 1]
    flow = np.zeros((2, 1, 3))
    flow[0, 0] = (0, 5, -5)
    colours = np.asarray(flow_map(flow, side=3))[0].astype(int)
    assert colours[0].tolist() == [255, 255, 255]
    assert np.abs(colours[1] - colours[2]).sum() > 100
    assert np.asarray(flow_map(np.zeros((2, 4, 4)))).min() == 255


def test_the_contact_sheet(turned, random_lpips):
    rows = [Row("one.png", turned, figures(turned, None)), Row("two.png", turned, figures(turned, random_lpips))]
    sheet = draw_sheet(rows, "Turn head +70")
    assert sheet.width > 1800
    assert difference(sheet, Image.new("RGB", sheet.size, "white")) > 20
