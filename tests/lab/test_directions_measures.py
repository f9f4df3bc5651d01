"""The measures that faces are scored by, on faces drawn for the purpose, and the nets' interpreter."""

import json

import numpy as np
import pytest
import torch

from gra_core.errors import CheckpointError
from gra_core.lab.directions.appearance import APPEARANCE, Portrait, rgb_to_lab
from gra_core.lab.directions.geometry import GEOMETRY, eye_distance


def template():
    """Landmarks (68, 2) of a frontal face in a picture of 256 px: what matters of them, drawn by hand."""
    p = np.zeros((68, 2))
    angle = np.linspace(0, np.pi, 17)
    p[:17] = np.stack((128 - 62 * np.cos(angle), 130 + 90 * np.sin(angle)), 1)
    p[17:22] = [(75, 100), (84, 94), (94, 92), (104, 93), (113, 97)]
    p[22:27] = [(143, 97), (152, 93), (162, 92), (172, 94), (181, 100)]
    p[27:31] = [(128, 112), (128, 124), (128, 136), (128, 148)]
    p[31:36] = [(114, 156), (121, 158), (128, 160), (135, 158), (142, 156)]
    p[36:42] = [(84, 115), (91, 110), (101, 110), (108, 115), (101, 119), (91, 119)]
    p[42:48] = [(148, 115), (155, 110), (165, 110), (172, 115), (165, 119), (155, 119)]
    p[48:60] = [
        (100, 184),
        (110, 178),
        (121, 175),
        (128, 177),
        (135, 175),
        (146, 178),
        (156, 184),
        (146, 192),
        (135, 196),
        (128, 197),
        (121, 196),
        (110, 192),
    ]
    p[60:68] = [(104, 184), (121, 183), (128, 183), (135, 183), (152, 184), (135, 186), (128, 186), (121, 186)]
    return p  # fmt: skip


SKIN, HAIR = (205, 160, 135), (60, 40, 30)


def portrait(points=None):
    pixels = np.full((256, 256, 3), SKIN, np.uint8)
    pixels[:50] = HAIR
    return Portrait(pixels, template() if points is None else points)


MOVES = {
    "yaw": ([30], (8, 0)),
    "nose_drop": ([30], (0, 5)),
    "mouth_width": ([54], (6, 0)),
    "mouth_gap": ([65, 66, 67], (0, 6)),
    "lip_thickness": ([56, 57, 58], (0, 5)),
    "eye_opening": ([37, 38, 43, 44], (0, -3)),
    "eye_width": ([36, 42], (-3, 0)),
    "brow_height": (list(range(17, 27)), (0, -5)),
    "brow_slope": ([20, 21, 22, 23], (0, -4)),
    "face_width": ([13, 14, 15], (7, 0)),
    "jaw_width": ([10, 11, 12], (7, 0)),
    "chin_height": ([7, 8, 9], (0, 7)),
    "nose_width": ([35], (5, 0)),
    "nose_length": ([33], (0, 5)),
}


def test_every_geometric_measure_is_tested():
    assert set(MOVES) == set(GEOMETRY)


@pytest.mark.parametrize("name", MOVES)
def test_geometry_follows_the_landmarks_and_not_the_size(name):
    points, shift = MOVES[name]
    moved = template()
    moved[points] += shift
    plain, more = GEOMETRY[name](np.stack([template(), moved]))
    assert more > plain
    bigger, shifted = GEOMETRY[name](np.stack([2 * moved, moved + np.array((30, -20))]))
    assert bigger == pytest.approx(more, abs=1e-6)
    assert shifted == pytest.approx(more, abs=1e-6)


def test_yaw_sign_and_size():
    landmarks = np.zeros((3, 68, 2))
    landmarks[:, 36, 0], landmarks[:, 45, 0] = 100, 200
    landmarks[:, 30, 0] = 150, 170, 130
    yaw = GEOMETRY["yaw"](landmarks)
    assert yaw[0] == 0
    assert yaw[1] == pytest.approx(-yaw[2])
    assert 15 < yaw[1] < 30, "a nose to the right of the middle is a head turned to the picture's right"


def test_degenerate_landmarks_give_numbers():
    assert eye_distance(np.zeros((1, 68, 2))) == 1
    for measure in GEOMETRY.values():
        assert np.isfinite(measure(np.zeros((1, 68, 2)))).all()
    for points in (np.zeros((68, 2)), template() + 400, template() - 400):
        for measure in APPEARANCE.values():
            assert np.isfinite(measure(portrait(points)))


def test_lab_of_known_colours():
    colours = np.uint8([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255], [119, 119, 119]])
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86), (50.03, 0, 0)]
    np.testing.assert_allclose(rgb_to_lab(colours), expected, atol=0.1)


def paint(name):  # noqa: PLR0912
    """The drawn face after what the measure `name` is to see."""
    face = portrait()
    p = face.pixels
    red, dark, blond = (200, 60, 70), (70, 50, 45), (225, 195, 140)
    match name:
        case "lens_tint":
            p[105:135, 75:181] = 20
        case "skin_light":
            p[50:] = np.clip(p[50:].astype(int) + 30, 0, 255)
        case "skin_red":
            p[150:165, 90:166] = (225, 140, 130)
        case "light_side":
            p[:, :128] //= 2
        case "skin_texture":
            p[130:180:2, 80:176] = p[130:180:2, 80:176] * 0.8
        case "warmth":
            p[..., 2] //= 2
        case "background_light":
            p[:90, :30] = p[:90, -30:] = 240
        case "lip_red":
            p[173:199, 98:158] = red
        case "beard":
            p[200:226, 90:166] = dark
        case "brow_dark":
            p[88:103, 72:184] = HAIR
        case "eye_blue":
            p[111:119, 86:106] = p[111:119, 150:170] = (90, 120, 190)
        case "gaze":
            p[104:124, 99:106] = p[104:124, 163:170] = 20
        case "hair_light":
            p[:50] = blond
        case "hair_grey":
            p[:50] = 170
        case "hair_red":
            p[:50] = (150, 60, 30)
        case "fringe":
            p[:90] = HAIR
        case "hair_length":
            p[170:, :66] = p[170:, 190:] = HAIR
    return face


@pytest.mark.parametrize("name", APPEARANCE)
def test_appearance_sees_what_its_name_says(name):
    measure = APPEARANCE[name]
    assert measure(paint(name)) > measure(portrait()) + 0.1


def test_grey_hair_is_not_blond_hair():
    blond = portrait()
    blond.pixels[:50] = (225, 195, 140)
    assert APPEARANCE["hair_grey"](paint("hair_grey")) > 3 * APPEARANCE["hair_grey"](blond)


def test_graph_model_runs_a_small_net(tmp_path):
    from gra_core.lab.directions.tfjs import GraphModel

    def attributes(**lists):
        return {key: {"list": value} for key, value in lists.items()}

    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 2, 4)).astype(np.float32), rng.normal(size=4).astype(np.float16)
    conv = attributes(strides={"i": ["1", "2", "2", "1"]}, fused_ops={"s": ["Qmlhc0FkZA==", "UmVsdQ=="]})
    conv["padding"] = {"s": "U0FNRQ=="}
    nodes = [
        {"name": "mean", "op": "Mean", "input": ["conv", "axes"], "attr": {}},
        {"name": "conv", "op": "_FusedConv2D", "input": ["x", "kernel", "bias"], "attr": conv},
        *({"name": name, "op": "Const", "attr": {}} for name in ("kernel", "bias", "axes")),
        {"name": "x", "op": "Placeholder", "attr": {}},
    ]
    weights = [
        {"name": "kernel", "shape": [3, 3, 2, 4], "dtype": "float32"},
        {"name": "bias", "shape": [4], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "axes", "shape": [2], "dtype": "int32"},
    ]
    (tmp_path / "net.bin").write_bytes(kernel.tobytes() + bias.tobytes() + np.int32([1, 2]).tobytes())
    manifest = [{"paths": ["net.bin"], "weights": weights}]
    (tmp_path / "net.json").write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}))
    x = torch.randn(2, 2, 8, 8)
    (result,) = GraphModel(tmp_path / "net.json", "mean")(x.numpy())
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # SAME with stride 2 on an even size pads right and bottom only
    expected = torch.nn.functional.conv2d(padded, torch.tensor(kernel).permute(3, 2, 0, 1), stride=2)
    expected = (expected + torch.tensor(bias.astype(np.float32))[:, None, None]).relu().mean((2, 3))
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)
    with pytest.raises(CheckpointError, match="missing"):
        GraphModel(tmp_path / "other.json", "mean")


def test_regions_share_out_the_picture():
    from gra_core.lab.directions.appearance import Portrait
    from gra_core.lab.directions.regions import REGIONS, face_regions

    points = np.random.default_rng(0).uniform(90, 170, (68, 2)).astype(np.float32)
    points[48:60] = [(128 + 20 * np.cos(a), 180 + 8 * np.sin(a)) for a in np.linspace(0, 6.28, 12)]
    person = np.zeros((256, 256), np.float32)
    person[:, 60:200] = 1
    masks = dict(zip(REGIONS, face_regions(Portrait(np.zeros((256, 256, 3), np.uint8), points), person), strict=True))
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all(), "each pixel belongs to one region"
    assert masks["mouth"][45, 32]
    assert masks["background"][5, 2]
    assert masks["hair"][1, 20]


def test_energy_of_a_channel_is_where_it_moves_pixels():
    import torch

    from gra_core.directions import stylespace
    from gra_core.lab.directions import channels

    class Halves(torch.nn.Module):
        """Channel 0 of the first row lights the left half, channel 1 the right one three times as much."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(512, 2, bias=False)

        def forward(self, codes):
            left, right = self.layer(codes[:, 0]).unbind(1)
            picture = torch.zeros(1, 3, 64, 64)
            picture[..., :32] = left
            picture[..., 32:] = 3 * right
            return picture

    generator = Halves()
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :, :32] = masks[1, :, 32:] = True
    original = stylespace.affine_layers
    stylespace.affine_layers = lambda g: [[g.layer]]
    try:
        energy = channels.region_energy(generator, torch.ones(1, 16, 512), masks, tries=200)
    finally:
        stylespace.affine_layers = original
    assert energy[0, 1] == energy[1, 0] == 0
    assert energy[0, 0] == pytest.approx(3 * 64 * 32, rel=0.4), "sum of squared derivatives"
    assert energy[1, 1] == pytest.approx(9 * 3 * 64 * 32, rel=0.4)
