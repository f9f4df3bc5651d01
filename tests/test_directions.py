"""The edit directions: registry, fitting, and the shipped file."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import (
    DIRECTIONS_FILE,
    VECTORS,
    EditDirection,
    edit_offset,
    load_directions,
    save_directions,
)
from gra_core.errors import CheckpointError, GRAError, StrengthError, UnknownEditError

FIRST_KEYS = ["smile", "age", "yaw", "glasses", "gender"]


def make_edits(count=3, **changes):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, NUM_STYLES, STYLE_DIM)).astype(np.float16).astype(np.float32)
    values = {"minimum": -100.0, "maximum": 100.0, **changes}
    return [EditDirection(f"edit{i}", f"Edit {i}", "a hint", vector=v, **values) for i, v in enumerate(vectors)]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "directions.safetensors"
    save_directions(path, make_edits())
    return path


@pytest.fixture(scope="module")
def shipped():
    return load_directions(DIRECTIONS_FILE)


def rewrite(path, vectors=None, edits=None):
    """Write the file again with other contents than `save_directions` would allow."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        records = file.metadata()["edits"]
    save_file({VECTORS: load_file(path)[VECTORS] if vectors is None else vectors}, path, {"edits": edits or records})


def test_file_keeps_all_fields(saved):
    expected, loaded = make_edits(), load_directions(saved)
    assert list(loaded) == ["edit0", "edit1", "edit2"]
    for edit, copy in zip(expected, loaded.values(), strict=True):
        np.testing.assert_array_equal(copy.vector, edit.vector)
        assert (copy.label, copy.hint, copy.minimum, copy.maximum, copy.group, copy.caveat, copy.provenance) == (
            (edit.label, edit.hint, edit.minimum, edit.maximum, edit.group, edit.caveat, edit.provenance)
        )
        assert not copy.vector.flags.writeable


def test_one_vector_for_all_rows_is_broadcast(saved):
    vectors = np.random.default_rng(1).normal(size=(3, STYLE_DIM)).astype(np.float32)
    rewrite(saved, vectors)
    loaded = load_directions(saved)["edit1"].vector
    assert loaded.shape == (NUM_STYLES, STYLE_DIM)
    assert (loaded == vectors[1]).all()


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        load_directions(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 300, 20000])
def test_truncated_file(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged") as error:
        load_directions(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: np.full_like(v, np.nan),
        lambda v: v + np.float16(np.inf),
        lambda v: v[:, :9],
        lambda v: v[:2],
        np.zeros_like,
        lambda v: v[0, 0],
    ],
    ids=["nan", "inf", "rows", "count", "zero", "1-d"],
)
def test_impossible_vectors(saved, spoil):
    rewrite(saved, np.ascontiguousarray(spoil(load_file(saved)[VECTORS])))
    with pytest.raises(CheckpointError, match="damaged"):
        load_directions(saved)


@pytest.mark.parametrize("edits", ["not json", "{}", "[1, 2, 3]", '[{"key": "a"}, {"key": "b"}, {"key": "c"}]'])
def test_impossible_records(saved, edits):
    rewrite(saved, edits=edits)
    with pytest.raises(CheckpointError):
        load_directions(saved)


def test_repeated_key(saved):
    record = {"label": "", "hint": "", "minimum": -100, "maximum": 100, "group": "", "caveat": "", "provenance": ""}
    rewrite(saved, edits=json.dumps([{"key": key, **record} for key in "aba"]))
    with pytest.raises(CheckpointError, match="twice"):
        load_directions(saved)


def test_failed_save_leaves_the_old_file(saved):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="shape"):
        save_directions(saved, [*make_edits(), EditDirection("bad", "", "", -100, 100, np.zeros((1, 2)))])
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_zero_changes_nothing(shipped):
    for strengths in ({}, {"smile": 0}, {key: 0.0 for key in shipped}, {"age": -0.0}):
        offset = edit_offset(shipped, strengths)
        assert offset.shape == (NUM_STYLES, STYLE_DIM)
        assert offset.dtype == np.float32
        assert not offset.any()


def test_offsets_add_up(shipped):
    both = edit_offset(shipped, {"smile": 60, "age": -30})
    apart = edit_offset(shipped, {"smile": 60}) + edit_offset(shipped, {"age": -30})
    np.testing.assert_allclose(both, apart, atol=1e-6)
    np.testing.assert_array_equal(edit_offset(shipped, {"yaw": 100}), shipped["yaw"].vector)
    np.testing.assert_allclose(edit_offset(shipped, {"yaw": -50}), -0.5 * shipped["yaw"].vector, atol=1e-7)


def test_unknown_edit_names_what_there_is(shipped):
    with pytest.raises(UnknownEditError) as error:
        edit_offset(shipped, {"smlie": 10})
    assert "smlie" in str(error.value)
    assert "Did you mean smile?" in str(error.value)
    for key in FIRST_KEYS:
        assert key in str(error.value)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), 100.5, -101, "strong", None, [1]])
def test_strength_that_cannot_be(shipped, strength):
    with pytest.raises(StrengthError, match="age"):
        edit_offset(shipped, {"age": strength})


def test_one_sided_edit_refuses_the_other_side():
    edits = {edit.key: edit for edit in make_edits(minimum=0.0)}
    assert edit_offset(edits, {"edit1": 40}).any()
    with pytest.raises(StrengthError, match="0 to 100"):
        edit_offset(edits, {"edit1": -1})


def test_shipped_file(shipped):
    assert list(shipped)[: len(FIRST_KEYS)] == FIRST_KEYS
    flat = []
    for edit in shipped.values():
        assert (edit.minimum, edit.maximum) == (-100, 100)
        assert edit.label
        assert edit.hint
        assert edit.group
        assert "generated faces" in edit.provenance
        assert 3 < np.linalg.norm(edit.vector) < 25
        assert not edit.vector[9:].any(), "rows from 256 px up carry colour and texture, no edit of these moves them"
        flat.append(edit.vector.ravel() / np.linalg.norm(edit.vector))
    cosines = np.stack(flat) @ np.stack(flat).T - np.eye(len(flat))
    assert np.abs(cosines).max() < 0.5
    assert DIRECTIONS_FILE.stat().st_size < 1_000_000


def test_registry_does_not_import_torch():
    code = "import sys, gra_core.directions.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def planted(samples=1500, seed=0):
    """Correlated w with a wide spectrum, and two correlated attributes with known normals."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(samples, STYLE_DIM)).astype(np.float32) * np.linspace(1.5, 0.5, STYLE_DIM, dtype=np.float32)
    first, second = rng.normal(size=(2, STYLE_DIM)).astype(np.float32)
    first /= np.linalg.norm(first)
    second = 0.6 * first + 0.8 * second / np.linalg.norm(second)
    return w, first, second / np.linalg.norm(second), rng


def test_planted_direction_is_found():
    from gra_core.directions.fit import fit_boundary

    w, normal, _, rng = planted()
    boundary = fit_boundary(w, w @ normal + 0.2 * rng.normal(size=len(w)), penalty=0.1)
    assert boundary.normal @ normal > 0.9
    assert np.linalg.norm(boundary.normal) == pytest.approx(1, abs=1e-5)
    assert boundary.accuracy > 0.95
    assert boundary.agreement > 0.7


def test_noise_is_not_taken_for_an_attribute():
    from gra_core.directions.fit import fit_boundary

    w, _, _, rng = planted()
    boundary = fit_boundary(w, rng.normal(size=len(w)), penalty=0.1)
    assert 0.35 < boundary.accuracy < 0.65
    assert abs(boundary.agreement) < 0.2


def test_condition_orthogonalises():
    from gra_core.directions.fit import condition

    _, first, second, rng = planted()
    third = rng.normal(size=STYLE_DIM).astype(np.float32)
    assert first @ second > 0.5
    result = condition(first, [second, third])
    assert abs(result @ second) < 1e-5
    assert abs(result @ third) / np.linalg.norm(third) < 1e-5
    assert np.linalg.norm(result) == pytest.approx(1, abs=1e-5)
    assert result @ first > 0.5
    np.testing.assert_allclose(condition(first, []), first, atol=1e-6)


def test_built_edits_do_not_move_the_attributes_they_are_conditioned_on():
    from gra_core.directions.fit import RECIPES, build_edits
    from gra_core.directions.scores import MEASURES

    w, _, _, rng = planted(800)
    mixed = rng.normal(size=(len(MEASURES), STYLE_DIM)).astype(np.float32)
    mixed = mixed + 0.5 * mixed[:1]  # every attribute leaks into the first
    measures = {
        part: 0.02 * w @ direction for direction, parts in zip(mixed, MEASURES.values(), strict=True) for part in parts
    }
    edits, boundaries = build_edits(w, measures)
    assert [edit.key for edit in edits] == FIRST_KEYS
    for edit, recipe in zip(edits, RECIPES, strict=True):
        first, last = recipe.rows
        step = edit.vector[first]
        assert np.linalg.norm(step) == pytest.approx(recipe.reach, rel=1e-3)
        assert step @ boundaries[edit.key].normal > 0.3 * recipe.reach
        assert (edit.vector[first : last + 1] == step).all()
        assert not np.delete(edit.vector, range(first, last + 1), axis=0).any()
        for other in recipe.against:
            assert abs(step @ boundaries[other].normal) < 1e-3


def test_yaw_sign_and_size():
    from gra_core.directions.scores import yaw_degrees

    landmarks = np.zeros((3, 68, 2))
    landmarks[:, 36, 0], landmarks[:, 45, 0] = 100, 200
    landmarks[:, 30, 0] = 150, 170, 130
    yaw = yaw_degrees(landmarks)
    assert yaw[0] == 0
    assert yaw[1] == pytest.approx(-yaw[2])
    assert 15 < yaw[1] < 30, "a nose to the right of the middle is a head turned to the picture's right"


def test_tint_tells_dark_lenses_from_skin():
    from gra_core.directions.scores import lens_tint

    points = np.zeros((68, 2))
    points[36:42] = [(80, 120), (88, 115), (96, 115), (104, 120), (96, 125), (88, 125)]
    points[42:48] = points[36:42] + np.array((64, 0))
    points[31], points[35] = (115, 160), (141, 160)
    skin = np.full((256, 256, 3), 180, np.uint8)
    dark = skin.copy()
    dark[110:142, 70:190] = 20
    bare, worn = lens_tint(np.stack([skin, dark]), np.stack([points, points]))
    assert abs(bare) < 0.05
    assert worn > 1


def test_graph_model_runs_a_small_net(tmp_path):
    import torch

    from gra_core.directions.tfjs import GraphModel

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
    (result,) = GraphModel(tmp_path / "net.json")(x, "mean")
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # SAME with stride 2 on an even size pads right and bottom only
    expected = torch.nn.functional.conv2d(padded, torch.tensor(kernel).permute(3, 2, 0, 1), stride=2)
    expected = (expected + torch.tensor(bias.astype(np.float32))[:, None, None]).relu().mean((2, 3))
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)
    with pytest.raises(CheckpointError, match="missing"):
        GraphModel(tmp_path / "other.json")


def test_render_gives_pictures_that_can_be_scored():
    import torch

    from gra_core.directions.fit import render

    class Ramp(torch.nn.Module):
        """Left to right from -1 to 1 in red, 2 in green, -0.5 in blue, instead of the generator."""

        mean_w = torch.zeros(STYLE_DIM)

        def forward(self, codes):
            picture = torch.full((len(codes), 3, 1024, 1024), 2.0)
            picture[:, 0] = torch.linspace(-1, 1, 1024)
            picture[:, 2] = -0.5
            return picture

    pictures = render(Ramp(), np.zeros((5, NUM_STYLES, STYLE_DIM), np.float32))
    assert pictures.shape == (5, 256, 256, 3)
    assert pictures.dtype == np.uint8
    assert pictures.flags.c_contiguous, "dlib takes no other arrays"
    np.testing.assert_allclose(pictures[4, 7, :, 0], np.linspace(0, 255, 256), atol=1.5)
    assert (pictures[..., 1] == 255).all()
    assert (pictures[..., 2] == 64).all()


def test_fit_says_what_is_missing(tmp_path):
    from gra_core.directions import fit

    out = tmp_path / "out.safetensors"
    with pytest.raises(GRAError, match="--samples"):
        fit.main(["fit", "--nets", str(tmp_path), "--out", str(out)])
    with pytest.raises(CheckpointError, match=r"emotion\.json"):
        fit.main(["fit", "--nets", str(tmp_path), "--out", str(out), "--samples", "4"])
    assert not out.exists()


def test_sample_folder_must_match_its_codes(tmp_path):
    from gra_core.directions.fit import measure_folder

    with pytest.raises(GRAError, match="not a folder of samples"):
        measure_folder(tmp_path, None)
    np.save(tmp_path / "w.npy", np.zeros((1, STYLE_DIM), np.float32))
    for i in range(2):
        Image.new("RGB", (256, 256)).save(tmp_path / f"{i:05d}.jpg")
    with pytest.raises(GRAError, match="do not match"):
        measure_folder(tmp_path, None)


def test_measures_are_kept_beside_the_samples(tmp_path):
    from gra_core.directions.fit import measure_folder

    w = np.random.default_rng(0).normal(size=(3, STYLE_DIM)).astype(np.float32)
    np.save(tmp_path / "w.npy", w)
    for i in range(3):
        Image.new("RGB", (256, 256), (i * 40, 0, 0)).save(tmp_path / f"{i:05d}.jpg", quality=95)
    calls = []

    class Scorer:
        probe = np.float16([1, 2])

        def __call__(self, pictures):
            calls.append(len(pictures))
            return {"happy": pictures[:, 0, 0, 0].astype(np.float32)}

    scorer = Scorer()
    for _ in range(2):
        codes, measures = measure_folder(tmp_path, scorer)
        np.testing.assert_array_equal(codes, w)
        assert list(measures) == ["happy"]
        np.testing.assert_allclose(measures["happy"], [0, 40, 80], atol=3)
    assert calls == [3]
    scorer.probe = np.float16([1, 3])
    measure_folder(tmp_path, scorer)
    assert calls == [3, 3], "another glasses probe makes the kept measures stale"


def test_check_prints_every_edit(capsys):
    from gra_core.directions import fit

    assert fit.main(["check"]) == 0
    output = capsys.readouterr().out
    for key in FIRST_KEYS:
        assert key in output
