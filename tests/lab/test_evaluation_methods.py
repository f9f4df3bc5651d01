"""What methods are compared by and with: attribute change, background, kernel distance, other designs, optimisation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from gra_core.editor import PortraitEditor
from gra_core.errors import CheckpointError
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.lab.directions.person import PersonMask
from gra_core.lab.directions.tfjs import GraphModel
from gra_core.lab.evaluation import attributes, groups
from gra_core.lab.evaluation import evaluate as evaluation
from gra_core.lab.evaluation.attributes import AttributeMeter
from gra_core.lab.evaluation.kid import PictureFeatures, kernel_distance
from gra_core.lab.evaluation.methods import Method, trained_methods
from gra_core.lab.evaluation.optimization import Optimization
from gra_core.lab.evaluation.workers import EvaluationContext, Workers
from gra_core.lab.training.runtime import save_weights
from gra_core.models.encoder import to_encoder_size
from gra_core.models.generator import without_artefacts
from gra_core.models.streams import DESIGNS, Streams


def test_kernel_distance_is_nought_for_one_distribution_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 300, 16)).astype(np.float32)
    near, far, further = (kernel_distance(first, second + shift) for shift in (0, 0.5, 1))
    assert abs(near) < 0.02
    assert 0.1 < far < further
    assert kernel_distance(second + 1, first) == pytest.approx(further)


def test_picture_features_tell_pictures_apart(face):
    features = PictureFeatures()
    picture = image_to_tensor(face)
    same, flat = features(torch.cat((picture, picture.mean((2, 3), keepdim=True).expand_as(picture))))
    assert same.shape == (1280,)
    np.testing.assert_allclose(features(picture)[0], same, atol=1e-3)
    assert np.linalg.norm(same - flat) > 0.1 * np.linalg.norm(same)


def left_half(pictures: np.ndarray) -> np.ndarray:
    """Stands in for the person segmentation: the person is where the picture's left half is."""
    mask = np.zeros((len(pictures), 1, *pictures.shape[2:]), np.float32)
    mask[..., : pictures.shape[3] // 2] = 1
    return mask


@pytest.fixture
def meter(monkeypatch, tmp_path) -> AttributeMeter:
    monkeypatch.setattr(attributes, "FaceScorer", lambda nets, probe: None)
    monkeypatch.setattr(attributes, "PersonMask", lambda nets: left_half)
    return AttributeMeter(tmp_path)


def test_background_counts_only_where_the_person_is_not(meter, face, random_lpips):
    portrait = face.resize((1024, 1024))
    on_person, behind = portrait.copy(), portrait.copy()
    on_person.paste((255, 0, 0), (0, 0, 400, 1024))
    behind.paste((255, 0, 0), (700, 0, 1024, 1024))
    assert meter.background_lpips(on_person, meter.background(portrait), random_lpips) == 0
    assert meter.background_lpips(behind, meter.background(portrait), random_lpips) > 0.01


def test_missing_person_segmentation_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"selfie\.json"):
        PersonMask(tmp_path)


def test_attribute_change_counts_the_way_the_slider_says(face, tmp_path, random_lpips):
    """The full edit brightens by the strength, the other by half of it: half of the change."""
    face.resize((1024, 1024)).save(tmp_path / "face.png")

    def brighten(share):
        def edit(picture, strengths):
            pixels = np.asarray(picture, float) * 0.5 + 60 + share * sum(strengths.values())
            return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))

        return edit

    result = evaluation.evaluate(
        SimpleNamespace(edits={"smile": SimpleNamespace(minimum=-100, maximum=100)}),
        [tmp_path / "face.png"],
        edits=("smile",),
        methods={"low_rate": Method(lambda p: p, brighten(1)), "half": Method(lambda p: p, brighten(0.5))},
        lpips=random_lpips,
        meter=SimpleNamespace(
            scores=lambda picture: {"smile": float(np.asarray(picture).mean())},
            background=lambda portrait: None,
            background_lpips=lambda result, background, lpips: 0.25,
        ),
    )
    for move in ("smile+60", "smile-60"):
        full, half = (result["summary"][name]["edits"][move]["change"]["mean"] for name in ("low_rate", "half"))
        assert full == pytest.approx(60, rel=0.05)
        assert half == pytest.approx(30, rel=0.05)
        assert result["summary"]["half"]["edits"][move]["background"]["mean"] == 0.25
    last = [line for line in evaluation.markdown_table(result).splitlines() if line.startswith("| half |")][-1]
    assert float(last.split("|")[2].split(";")[0]) == pytest.approx(0.5, abs=0.02)


def test_slow_methods_are_measured_on_the_first_pictures_only(face, tmp_path, random_lpips):
    for name in ("a.png", "b.png"):
        face.resize((512, 512)).save(tmp_path / name)
    copy = Method(lambda portrait: portrait, lambda inversion, strengths: inversion)
    result = evaluation.evaluate(
        SimpleNamespace(edits={}),
        sorted(tmp_path.iterdir()),
        edits=(),
        methods={"copy": copy},
        slow_methods={"slow": copy},
        slow_limit=1,
        lpips=random_lpips,
        features=lambda pictures: F.avg_pool2d(pictures, pictures.shape[-1] // 4).flatten(1).numpy(),
    )
    assert [list(entry["methods"]) for entry in result["per_image"]] == [["copy", "slow"], ["copy"]]
    assert result["summary"]["slow"]["reconstruction"]["mse"]["n"] == 1
    assert result["summary"]["slow"]["kid"] is None
    assert result["summary"]["copy"]["kid"] is not None


def test_streams_of_other_designs_become_methods(editor, tmp_path, face):
    with pytest.raises(CheckpointError, match="one_shot"):
        trained_methods(editor, tmp_path)
    for name in ("gra", "one_shot"):
        save_weights(Streams(DESIGNS[name]), tmp_path / f"{name}.safetensors", {"design": DESIGNS[name].to_json()})
    methods = trained_methods(editor, tmp_path)
    assert list(methods) == ["gra_equal_budget", "one_shot"]
    inversion = methods["one_shot"].invert(face)
    assert len(inversion.source.residuals) == 1
    assert inversion.background is None
    assert methods["gra_equal_budget"].invert(face).photo_warp is None
    # Untrained streams repair nothing: what is left is the low-rate code, less its upsampling artefacts.
    picture = methods["one_shot"].edit(inversion, {})
    with torch.inference_mode():
        low_rate = tensor_to_image(without_artefacts(editor.generator(inversion.codes)))
    assert np.abs(np.asarray(picture, int) - np.asarray(low_rate, int)).max() <= 1


def test_optimisation_nears_the_portrait_and_leaves_the_editor_alone(editor: PortraitEditor, face, random_lpips):
    before = {name: value.clone() for name, value in editor.generator.state_dict().items()}
    optimization = Optimization(editor, random_lpips, code_steps=3, tuning_steps=2)
    target = to_encoder_size(image_to_tensor(face.resize((1024, 1024))))

    def error(found) -> float:
        return (to_encoder_size(found.generator(found.codes)) - target).square().mean().item()

    average = (editor.estimate_codes.average_face - target).square().mean().item()
    code = optimization.invert_code(face.resize((1024, 1024)))
    tuned = optimization.invert_and_tune(face.resize((1024, 1024)))
    assert error(code) < average
    assert error(tuned) < average
    assert tuned.generator is not editor.generator
    assert all(torch.equal(value, before[name]) for name, value in editor.generator.state_dict().items())
    plain, smile = (np.asarray(optimization.edit(tuned, strengths), int) for strengths in ({}, {"smile": 60}))
    assert plain.shape == (1024, 1024, 3)
    assert np.abs(plain - smile).max() > 5


def test_graph_model_runs_what_segmentation_needs(tmp_path):
    """Squeeze and excite with the constant first, then up: by interpolation, and by a transposed convolution."""

    def ints(name, values):
        return {name: {"list": {"i": [str(v) for v in values]}}}

    rng = np.random.default_rng(0)
    up = rng.normal(size=(2, 2, 1, 3)).astype(np.float32)
    nodes = [
        {"name": "x", "op": "Placeholder", "attr": {}},
        *({"name": name, "op": "Const", "attr": {}} for name in ("three", "size", "up", "up_size")),
        {"name": "pool", "op": "AvgPool", "input": ["x"], "attr": ints("ksize", (1, 4, 4, 1))},
        {"name": "shifted", "op": "AddV2", "input": ["three", "pool"], "attr": {}},
        {"name": "gate", "op": "Relu6", "input": ["shifted"], "attr": {}},
        {"name": "gated", "op": "Mul", "input": ["gate", "x"], "attr": {}},
        {"name": "resized", "op": "ResizeBilinear", "input": ["gated", "size"], "attr": {}},
        {
            "name": "result",
            "op": "Conv2DBackpropInput",
            "input": ["up_size", "up", "resized"],
            "attr": ints("strides", (1, 2, 2, 1)),
        },
    ]
    weights = [
        {"name": "three", "shape": [], "dtype": "float32"},
        {"name": "size", "shape": [2], "dtype": "int32"},
        {"name": "up", "shape": [2, 2, 1, 3], "dtype": "float32"},
        {"name": "up_size", "shape": [4], "dtype": "int32"},
    ]
    data = np.float32(3).tobytes() + np.int32([8, 8]).tobytes() + up.tobytes() + np.int32([1, 16, 16, 1]).tobytes()
    (tmp_path / "net.bin").write_bytes(data)
    manifest = [{"paths": ["net.bin"], "weights": weights}]
    (tmp_path / "net.json").write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}))
    x = torch.randn(1, 3, 4, 4)
    (result,) = GraphModel(tmp_path / "net.json", "result")(x.numpy())
    gated = x * (3 + x.mean((2, 3), keepdim=True)).clamp(0, 6)
    resized = F.interpolate(gated, size=(8, 8), mode="bilinear")
    expected = torch.einsum("bcyx,ijc->byixj", resized, torch.tensor(up[:, :, 0])).reshape(1, 1, 16, 16)
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)


def test_groups_tell_what_a_picture_shows(face):
    scores = {"age": 30.0, "yaw": -25.0}
    names = groups.groups_of(face, scores)
    assert names == ["all unaltered", "light skin", "turned by 20 degrees or more"]
    dark = Image.fromarray((np.asarray(face, float) * 0.35).astype(np.uint8))
    assert "dark skin" in groups.groups_of(dark, {"age": 70.0, "yaw": 0.0})
    assert "from 60 years" in groups.groups_of(dark, {"age": 70.0, "yaw": 0.0})
    assert "up to 16 years" in groups.groups_of(dark, {"age": 8.0, "yaw": 0.0})


def test_each_kind_of_picture_is_measured_and_bad_ones_are_marked(face, random_lpips):
    """Features that can do all but colours: only pictures without colour come out right. The result is the photo."""

    def invert(picture):
        image = F.avg_pool2d(image_to_tensor(ImageOps.grayscale(picture).convert("RGB")), 4)
        return SimpleNamespace(picture=picture, source=SimpleNamespace(image=image))

    colourless = SimpleNamespace(
        invert=invert, low_rate=lambda found: found.picture.rotate(180), edit=lambda found, _: found.picture
    )
    meter = SimpleNamespace(scores=lambda picture: {"age": 30.0, "yaw": 0.0})
    workers = Workers(EvaluationContext(colourless, {}, {}, random_lpips, meter=meter))
    found = groups.measure_groups(workers, lambda context, picture: picture, [face])
    steps = {name: {step: figure["mean"] for step, figure in figures.items()} for name, figures in found.items()}
    assert steps["no colour"]["features"] < 0.1 * steps["all unaltered"]["features"]
    assert steps["warm cast"]["features"] > 1.5 * steps["all unaltered"]["features"]
    assert all(figures["gra"] == 0 < figures["low_rate"] for figures in steps.values())
    assert set(groups.ALTERATIONS) < set(found)
    table = groups.groups_table({"portraits": found})
    marked = next(line for line in table.splitlines() if line.startswith("| warm cast"))
    assert [cell.endswith("]* ") for cell in marked.split("|")[3:6]] == [False, True, False]
    assert "*" not in next(line for line in table.splitlines() if line.startswith("| no colour"))
