"""The edit directions: registry, fitting, and the shipped file."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import (
    DIRECTIONS_FILE,
    RELEASE_SIDE,
    VECTORS,
    EditDirection,
    edit_offset,
    glasses_thinned,
    load_directions,
    preserved,
    save_directions,
    turning,
)
from gra_core.errors import CheckpointError, GRAError, StrengthError, UnknownEditError

EDITS = load_directions()
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


def test_file_keeps_how_edits_behave(tmp_path):
    first, second, third = make_edits(gain=1.17, turns=True, thins_glasses=-0.5)
    maps = np.zeros((2, RELEASE_SIDE, RELEASE_SIDE), np.float32)
    maps[1, 3, 4] = 0.5
    save_directions(tmp_path / "some", [replace(first, releases=maps), second, third])
    loaded = load_directions(tmp_path / "some")
    assert all((edit.gain, edit.turns, edit.thins_glasses) == (1.17, True, -0.5) for edit in loaded.values())
    np.testing.assert_allclose(loaded["edit0"].releases, maps, atol=1 / 255)
    assert preserved(loaded, {"edit0": 100.0}).min() == 1
    assert preserved(loaded, {"edit0": -100.0})[3, 4] == pytest.approx(0.5, abs=0.01)
    assert preserved(loaded, {"edit0": 100.0, "edit1": 10.0}).max() == 0.5  # not measured: it may be about anything
    assert turning(loaded, {"edit0": 30.0, "edit1": -40.0}) == 50
    assert glasses_thinned(loaded, {"edit0": 60.0}) == 0
    assert glasses_thinned(loaded, {"edit0": -30.0}) == 0.25
    assert glasses_thinned(loaded, {"edit0": -100.0}) == 0.5


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


@given(st.dictionaries(st.sampled_from(sorted(EDITS)), st.floats(-100, 100), max_size=6), st.floats(0, 1))
def test_offsets_are_linear(strengths, share):
    strengths = {key: max(value, EDITS[key].minimum) for key, value in strengths.items()}
    whole = edit_offset(EDITS, strengths)
    apart = sum((edit_offset(EDITS, {key: value}) for key, value in strengths.items()), np.zeros_like(whole))
    np.testing.assert_allclose(whole, apart, atol=1e-5)
    part = edit_offset(EDITS, {key: share * value for key, value in strengths.items()})
    np.testing.assert_allclose(part, share * whole, atol=1e-5)


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
    from gra_core.lab.directions.scores import SCORES

    assert list(shipped)[: len(FIRST_KEYS)] == FIRST_KEYS
    assert len(shipped) >= 20
    flat = []
    for edit in shipped.values():
        assert edit.minimum in (-100, 0)
        assert edit.maximum == 100
        assert edit.label
        assert edit.hint.endswith(".")
        assert edit.group
        assert edit.kind
        assert "generated faces" in edit.provenance
        assert 1 < np.linalg.norm(edit.vector) < 35
        assert (edit.kind == "stylespace") == (edit.layers[0] == edit.layers[1]), "a style channel reads one row"
        assert (edit.score or edit.key) in SCORES
        flat.append(edit.vector.ravel() / np.linalg.norm(edit.vector))
    cosines = np.stack(flat) @ np.stack(flat).T - np.eye(len(flat))
    assert np.abs(cosines).max() < 0.7
    assert len({edit.label for edit in shipped.values()}) == len(shipped)
    assert DIRECTIONS_FILE.stat().st_size < 2_000_000


def test_layers_are_the_rows_that_move():
    vector = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
    vector[3, 7] = vector[9, 0] = 1
    assert EditDirection("a", "", "", -100, 100, vector).layers == (3, 9)


def test_edit_that_depends_on_the_face():
    edit = EditDirection("a", "", "", -100, 100, np.ones((16, 512), np.float32), mapper=lambda code: 2 * code)
    code = np.random.default_rng(0).normal(size=(16, 512)).astype(np.float32)
    np.testing.assert_allclose(edit_offset({"a": edit}, {"a": -50}, code), -code, rtol=1e-6)
    np.testing.assert_array_equal(edit_offset({"a": edit}, {"a": 50}), 0.5 * edit.vector)


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
    from gra_core.lab.directions.boundaries import fit_boundary

    w, normal, _, rng = planted()
    boundary = fit_boundary(w, w @ normal + 0.2 * rng.normal(size=len(w)), penalty=0.1)
    assert boundary.normal @ normal > 0.9
    assert np.linalg.norm(boundary.normal) == pytest.approx(1, abs=1e-5)
    assert boundary.accuracy > 0.95
    assert boundary.agreement > 0.7


def test_noise_is_not_taken_for_an_attribute():
    from gra_core.lab.directions.boundaries import fit_boundary

    w, _, _, rng = planted()
    boundary = fit_boundary(w, rng.normal(size=len(w)), penalty=0.1)
    assert 0.35 < boundary.accuracy < 0.65
    assert abs(boundary.agreement) < 0.2


def test_condition_orthogonalises():
    from gra_core.lab.directions.boundaries import condition

    _, first, second, rng = planted()
    third = rng.normal(size=STYLE_DIM).astype(np.float32)
    assert first @ second > 0.5
    result = condition(first, [second, third])
    assert abs(result @ second) < 1e-5
    assert abs(result @ third) / np.linalg.norm(third) < 1e-5
    assert np.linalg.norm(result) == pytest.approx(1, abs=1e-5)
    assert result @ first > 0.5
    np.testing.assert_allclose(condition(first, []), first, atol=1e-6)


def measured(mean, noise=0.0, faces=8, seed=3):
    """Responses of basis directions that are unit vectors."""
    from gra_core.lab.directions.response import Responses

    rng = np.random.default_rng(seed)
    slopes = np.asarray(mean, float)[:, None] + noise * rng.normal(size=(len(mean), faces, len(mean[0])))
    return Responses.measured(slopes, np.eye(len(mean)), np.zeros((len(mean), 0, 128)))


def test_combine_moves_one_score_alone():
    from gra_core.lab.directions.response import combine

    mean = np.random.default_rng(0).normal(size=(12, 6))
    weights = np.array([1, 1, 1, 1, 1, 0.0])
    amounts = combine(measured(mean), 2, weights, step=1e-4)
    moved = amounts @ mean
    assert moved[2] == pytest.approx(1)
    assert np.abs(moved[[0, 1, 3, 4]]).max() < 0.02
    short = combine(measured(mean), 2, weights, step=10.0)
    assert np.linalg.norm(short) < np.linalg.norm(amounts), "a higher price of length makes shorter edits"


def test_combine_avoids_entanglements_that_differ_from_face_to_face():
    from gra_core.lab.directions.response import Responses, combine

    slopes = np.ones((2, 4, 2)) * (1, 0)
    slopes[0, :, 1] = 3, -3, 3, -3  # no entanglement on average
    responses = Responses.measured(slopes, np.eye(2), np.zeros((2, 0, 128)))
    amounts = combine(responses, 0, np.ones(2), step=0.01)
    assert amounts[0] < 0.1 * amounts[1]


def test_combine_keeps_the_person():
    """Three basis directions move the score alike; two change the person oppositely, on half of the faces only."""
    from gra_core.lab.directions.response import Responses, combine

    descriptors = np.zeros((3, 4, 128))
    descriptors[0, :2, 5], descriptors[1, :2, 5], descriptors[2, :, 9] = 0.4, -0.4, 0.3
    responses = Responses.measured(np.ones((3, 6, 1)), np.eye(3), descriptors)
    np.testing.assert_allclose(responses.identity, [[0.08, -0.08, 0], [-0.08, 0.08, 0], [0, 0, 0.09]], atol=1e-9)
    free, bound = (combine(responses, 0, np.ones(1), step=1e-4, identity=i) for i in (0.0, 10.0))
    np.testing.assert_allclose(free, 1 / 3, atol=1e-6)
    np.testing.assert_allclose(bound, [0.5, 0.5, 0], atol=1e-3)
    assert responses.change(np.array([1.0, 0, 0])) == pytest.approx(np.sqrt(0.08)), "root mean square over faces"
    assert responses.change(bound) < 0.01 < responses.change(free)


def test_combine_evenly_lets_no_entanglement_stand_out():
    from gra_core.lab.directions.response import combine, combine_evenly

    rng = np.random.default_rng(4)
    responses = measured(rng.normal(size=(6, 12)))
    units = np.full(12, 2.0)
    units[5] = 0.5  # the slider of this score does little: entanglements into it count four times
    plain = combine(responses, 1, 1 / units, step=1e-3)
    even = combine_evenly(responses, 1, np.ones(12), units, step=1e-3)

    def worst(amounts):
        share = np.abs(amounts @ responses.mean) * units[1] / units
        return np.delete(share, 1).max()

    assert even @ responses.mean[:, 1] == pytest.approx(1)
    assert worst(even) < 0.95 * worst(plain)


def test_entanglements_are_held_on_each_kind_of_faces():
    from gra_core.lab.directions.response import Responses

    slopes = np.zeros((1, 4, 1))
    slopes[0, :, 0] = 1, 1, -3, -3
    responses = Responses.measured(slopes, np.eye(1), np.zeros((1, 0, 128)), np.array([0, 0, 1, 1]))
    assert responses.largest(np.array([2.0])) == pytest.approx(6), "not 2, the mean over all"


def test_trials_teach_what_the_atoms_do():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(10, 4))
    responses = measured(truth, noise=1.0, faces=6)
    amounts = rng.normal(size=(8, 10))
    slopes = (amounts @ truth)[:, None] + 0.1 * rng.normal(size=(8, 6, 4))
    updated = responses.updated(amounts, slopes)
    before, after = (np.abs(amounts @ (r.mean - truth)).mean() for r in (responses, updated))
    assert after < 0.7 * before
    assert np.abs(updated.mean - truth).mean() < np.abs(responses.mean - truth).mean()


def test_edits_built_from_planted_atoms():
    from gra_core.lab.directions.boundaries import Boundary
    from gra_core.lab.directions.planning import STRENGTH, build_edits, plan
    from gra_core.lab.directions.recipes import RECIPES, band_basis
    from gra_core.lab.directions.response import Responses
    from gra_core.lab.directions.scores import MEASURES, SCORES

    rng = np.random.default_rng(2)
    normals = rng.normal(size=(len(MEASURES), STYLE_DIM)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    boundaries = {key: Boundary(normal, 0.9, 0.8) for key, normal in zip(MEASURES, normals, strict=True)}
    basis = band_basis(boundaries)
    for key in FIRST_KEYS:
        basis[f"{key}.start"] = 2 * basis[f"{key}.middle" if f"{key}.middle" in basis else f"{key}.mouth"]
    own = np.array([[key.removesuffix("_odds") == name.split(".")[0] for key in SCORES] for name in basis], float)
    slopes = (own + 0.2 * rng.normal(size=own.shape))[:, None] + 0.05 * rng.normal(size=(len(own), 4, len(SCORES)))
    descriptors = 0.01 * rng.normal(size=(len(own), 4, 128))
    offsets = np.stack(list(basis.values()))
    responses = Responses.measured(slopes, offsets, descriptors)
    by_key = {key: boundary.normal for key, boundary in boundaries.items()}
    amounts = plan(list(basis), responses, offsets.mean(1), by_key)
    assert amounts.shape == (len(RECIPES), len(basis))
    edits = build_edits(amounts, basis, boundaries, samples=500, faces=4)
    assert [edit.key for edit in edits] == [recipe.key for recipe in RECIPES]
    assert [edit.key for edit in edits][: len(FIRST_KEYS)] == FIRST_KEYS
    for edit, recipe, row in zip(edits, RECIPES, amounts, strict=True):
        assert "500 generated faces" in edit.provenance
        moved, column = row @ responses.mean, SCORES.index(recipe.fitted)
        assert moved[column] > 0.3
        if recipe.kept:
            expected = basis[f"{recipe.key}.start"] * 100 / STRENGTH
            np.testing.assert_allclose(edit.vector, expected, rtol=1e-5, atol=1e-6)
            continue
        assert np.linalg.norm(edit.vector) <= recipe.longest * 1.001
        if recipe.near:
            mean_row = edit.vector.mean(0)
            assert mean_row @ by_key[recipe.key] >= 0.99 * recipe.near * np.linalg.norm(mean_row)
        held = [r.shipped and r.key not in (*recipe.along, recipe.key) for r in RECIPES]
        columns = [SCORES.index(r.fitted) for r, h in zip(RECIPES, held, strict=True) if h]
        assert np.abs(moved[columns]).max() < 0.35 * moved[column]
    far = plan(list(basis), responses, offsets.mean(1), by_key, {"mouth_open": 100.0})
    row = [recipe.key for recipe in RECIPES].index("mouth_open")
    smaller = np.linalg.norm(far[row]) / np.linalg.norm(amounts[row])
    assert smaller < 0.5, "an edit that was seen to change the person is scaled down"


def test_components_do_not_depend_on_chance():
    from gra_core.lab.directions.ganspace import clean_components, component_basis, component_edits, components
    from gra_core.lab.directions.recipes import ComponentRecipe
    from gra_core.lab.directions.sampling import load_generator

    generator = load_generator(device="cpu")
    axes, deviations = components(generator, 4, samples=1500)
    again, _ = components(generator, 4, samples=1500)
    np.testing.assert_array_equal(axes, again)
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-5)
    assert (np.diff(deviations) <= 0).all()
    assert (axes[np.arange(4), np.abs(axes).argmax(1)] > 0).all()
    basis = component_basis(axes)
    assert list(basis)[:4] == ["pca1.coarse", "pca1.middle", "pca1.fine", "pca2.coarse"]
    assert np.flatnonzero(basis["pca2.middle"].any(1)).tolist() == [4, 5, 6, 7]

    (edit,) = component_edits(axes, [ComponentRecipe("glow", "Glow", "+ glows.", "skin_light", 2, "fine", -3.0)])
    np.testing.assert_allclose(edit.vector[8:], np.tile(-3 * axes[1], (8, 1)), rtol=1e-6)
    assert (edit.kind, edit.layers, edit.score) == ("ganspace", (8, 15), "skin_light")

    effects = {"a": np.array([1.0, 0.1, 9]), "b": np.array([0.5, -0.6, 0]), "c": np.array([0.0, 2.0, 0])}
    found = clean_components(effects, np.ones(3), np.array([True, True, False]), 0.3)
    assert [(name, own) for name, own, _ in found] == [("c", 1), ("a", 0)], "the third is no edit's score"


class PlantedPool:
    """Scores pictures whose pixels say what was done to which face, and counts them."""

    def __init__(self):
        self.seen = 0

    def submit(self, pictures, *, describe=False):
        from gra_core.lab.directions.scores import SCORED_BY
        from gra_core.lab.directions.workers import DESCRIPTOR

        self.seen += len(pictures)
        moved = pictures[:, 0, 0, 0].astype(np.float32) - 100
        measures = {part: moved for parts in SCORED_BY.values() for part in parts}
        if describe:
            measures[DESCRIPTOR] = np.outer(moved, np.full(128, 0.5, np.float32))
        return lambda: measures


def planted_faces(count, seed=0):
    from gra_core.lab.directions.faces import FaceSet

    codes = np.random.default_rng(seed).normal(size=(count, NUM_STYLES, STYLE_DIM)).astype(np.float32)

    def draw(offset):
        return np.full((count, 8, 8, 3), 100 + offset[..., 0, 0].mean(), np.uint8)

    return FaceSet(codes, draw)


def test_effects_are_kept_and_measured_once(tmp_path):
    from time import monotonic

    from gra_core.lab.directions import measuring

    pool = PlantedPool()
    group = measuring.Group("generated0", 0, True, lambda: planted_faces(3))
    offsets = {f"a{n}": np.full((NUM_STYLES, STYLE_DIM), n, np.float32) for n in (1, 2)}
    assert measuring.measure_group(group, tmp_path, offsets, (-1.0, 1.0), pool, monotonic() - 1) == {}
    assert pool.seen == 0, "no time left"
    effects = measuring.measure_group(group, tmp_path, offsets, (-1.0, 1.0), pool)
    assert pool.seen == 12
    assert (effects["a2"].slopes() == 2).all()
    for source in (pool, None):
        again = measuring.measure_group(group, tmp_path, offsets, (-1.0, 1.0), source)
        np.testing.assert_array_equal(again["a1"].scores, effects["a1"].scores)
    assert pool.seen == 12, "kept"
    offsets["a1"] = offsets["a1"] + 1
    assert list(measuring.measure_group(group, tmp_path, offsets, (-1.0, 1.0), None)) == ["a2"], "another offset"
    measuring.measure_group(group, tmp_path, offsets, (-1.0, 1.0), pool)
    assert pool.seen == 18, "only what changed is measured anew"
    others = measuring.Group("generated0", 0, True, lambda: planted_faces(3, seed=1))
    measuring.measure_group(others, tmp_path, offsets, (-1.0, 1.0), pool)
    assert pool.seen == 30, "other faces"

    described = np.zeros((2, 3, 128), np.float32)
    effects[measuring.PLAIN] = measuring.Effect(np.zeros(1), np.zeros((2, 3, 1)), described.copy())
    described[0, :, 3], described[1, :, 3] = -0.3, 0.3
    effects["a1"] = measuring.Effect(offsets["a1"], effects["a1"].scores, described / 3)
    effects["a2"] = measuring.Effect(offsets["a2"], effects["a2"].scores, described)
    responses = measuring.responses_of([(group, effects)], {"a1": offsets["a1"], "a2": offsets["a2"]}, np.full(1, 2.0))
    np.testing.assert_allclose(responses.mean[:, 0], [0.5, 1.0])
    assert responses.change(np.array([0.0, 1.0])) == pytest.approx(0.8 * np.arctanh(0.3 / 0.8), rel=1e-3)
    assert responses.change(np.array([3.0, -1.0])) < 0.03, "one takes back what the other does"


def test_identity_distances_saturate():
    from gra_core.lab.directions.response import identity_change, identity_distance

    changes = np.array([0.0, 0.05, 0.3, 1.0, 1.4])
    far = identity_distance(changes)
    np.testing.assert_allclose(identity_change(far), changes, atol=1e-6)
    assert far[1] == pytest.approx(0.05, rel=0.01)
    assert (np.diff(far) > 0).all()
    assert far[-1] < 0.8
    assert np.isfinite(identity_change(1.2)), "other people can be farther apart"


class LinearPool:
    """Scores planted pictures: their pixels hold, as float32, what each score was moved by, curved where asked for."""

    def __init__(self, names, bend=0.0):
        self.names, self.bend = names, bend

    def submit(self, pictures, *, describe=False):
        from gra_core.lab.directions.scores import SCORED_BY

        moved = pictures[..., 0]
        moved = np.tanh(self.bend * moved) / self.bend if self.bend else moved
        columns = {name: moved[:, i] for i, name in enumerate(self.names)}
        measures = {part: columns.get(key, 0 * moved[:, 0]) for key, parts in SCORED_BY.items() for part in parts}
        return lambda: measures


@pytest.mark.parametrize("bend", [0.0, 0.6])
def test_entanglements_are_taken_out_by_other_edits(tmp_path, bend):
    """Edits along three rows of codes whose scores are planted: what entanglements much is taken out, the rest
    stays."""
    from gra_core.lab.directions import correcting
    from gra_core.lab.directions.faces import FaceSet
    from gra_core.lab.directions.measuring import Group
    from gra_core.lab.directions.recipes import Recipe
    from gra_core.lab.directions.scores import SCORES

    names = ["lips", "age", "beard"]  # scores of the rows 0, 1 and 2

    def edit(key, *rows):
        vector = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
        vector[: len(rows), 0] = rows
        return EditDirection(key, key, ".", -100, 100, vector, provenance="made")

    def draw(offset):
        return np.broadcast_to(offset[:3, 0], (4, 3))[..., None].astype(np.float32)

    faces = FaceSet(np.zeros((4, NUM_STYLES, STYLE_DIM), np.float32), draw)
    edits = [edit("lips", 2, -1.2, 0.3), edit("age", 0.2, 2, 0.4), edit("beard", 0, 0, 2)]
    wish = Recipe("lips", "Lips", ".", "Face", corrected_by=("age", "beard"))
    group = Group("corrections", 0, False, lambda: faces)
    pool, spread = LinearPool(names, bend), np.ones(len(SCORES))

    def scores(vector):
        measures = pool.submit(draw(0.6 * vector))()
        return [measures[part].mean() for part in ("lip_thickness", "age_faceres", "beard")]

    before, slider = scores(edits[0].vector), scores(edits[1].vector)[1]
    lips, *others = correcting.correct(edits, group, tmp_path / "a", spread, pool, [wish])
    assert [a is b for a, b in zip(others, edits[1:], strict=True)] == [True, True], "nothing is asked of these"
    expected = [before[0], -wish.allowed * slider, before[2]]
    np.testing.assert_allclose(scores(lips.vector), expected, atol=0.01 + 0.05 * bend)
    assert (lips.key, lips.provenance) == ("lips", "made; corrected by age, beard")
    kept = correcting.correct(edits, group, tmp_path / "a", spread, None, [wish])
    np.testing.assert_allclose(kept[0].vector, lips.vector, atol=0.01)

    again, *_ = correcting.correct([lips, *others], group, tmp_path / "b", spread, pool, [wish])
    assert again.provenance == lips.provenance
    np.testing.assert_allclose(again.vector, lips.vector, atol=0.02)

    less = Recipe("lips", "Lips", ".", "Face", corrected_by=("age",), reach=0.5)
    weak, *_ = correcting.correct(edits, group, tmp_path / "a", spread, pool, [less])
    assert scores(weak.vector)[0] == pytest.approx(0.5, abs=0.01), "also where the score saturates"

    untouched = correcting.correct(edits, group, tmp_path / "c", spread, None, [wish])
    assert [a is b for a, b in zip(untouched, edits, strict=True)] == [True] * 3, "nothing was measured"


def test_kept_trials_serve_without_measuring(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from gra_core.lab.directions import check, measuring, planning

    monkeypatch.setattr(measuring, "RECIPES", [SimpleNamespace(key="smile")])
    offsets = np.stack([np.full((NUM_STYLES, STYLE_DIM), n, np.float32) for n in (1, 3)])
    first = np.array([[5.0, 2.0]])
    edit = EditDirection("smile", "smile", "", -100, 100, np.tensordot(first[0], offsets, 1).astype(np.float32))
    group = measuring.Group("trial-generated", 0, True, lambda: planted_faces(3))
    names, pool = ["a", "b"], PlantedPool()
    tried, runs = measuring.try_edits([edit], first, names, offsets, [group], tmp_path, pool)
    run = runs["trial-generated"]["smile"]
    np.testing.assert_allclose(run.scores[:, 0, 0], np.array(check.STRENGTHS) / 100 * 11, atol=1)
    np.testing.assert_allclose(run.identity, 11 * np.sqrt(128) / 2, rtol=0.01)
    again, _ = measuring.try_edits([edit], 0 * first, names[::-1], offsets[::-1], [group], tmp_path, None)
    np.testing.assert_array_equal(again["smile"], tried["smile"][::-1])
    _, adding_up = planning.learn_from_trials(measured([[1.0, 0.0], [0.0, 1.0]]), {}, runs, np.ones(2))
    assert adding_up == {}, "nothing was tried of these basis directions"
    gone, _ = measuring.try_edits([edit], first, ["c", "b"], offsets, [group], tmp_path, None)
    assert gone == {}, "one of its basis directions is there no more"


def test_faces_of_a_fit_come_in_groups(tmp_path, monkeypatch):
    from gra_core.lab.directions import measuring
    from gra_core.lab.directions.sampling import Renderer, load_generator

    generator = load_generator(device="cpu")
    for n in range(60):
        (tmp_path / f"{n:02d}.png").touch()
    sets = []
    monkeypatch.setattr(measuring, "photo_faces", lambda files, size, device: sets.append(files) or range(3))
    basis, trials = measuring.groups_of(generator, Renderer(generator), tmp_path, 32, 0, "cpu")
    assert [group.name for group in basis] == ["generated0", "photos0", "generated1", "photos1"]
    assert [group.describe for group in basis] == [True, True, False, False]
    assert [group.name for group in trials] == ["trial-generated", "trial-photos"]
    codes = [group.faces().codes for group in (basis[0], basis[2], trials[0])]
    assert len({code[0, 0, 0].item() for code in codes}) == 3, "different faces"
    assert sets == [], "photos are read when they are needed"
    assert [group.faces() for group in (basis[1], basis[3], trials[1])] == [0, 1, 2]
    assert len(sets) == 1
    assert len(set(sets[0])) == 48


def test_renderer_gives_pictures_that_can_be_scored():
    import torch

    from gra_core.lab.directions.sampling import Renderer

    class Ramp(torch.nn.Module):
        """Left to right from -1 to 1 in red, 2 in green, -0.5 in blue, instead of the generator."""

        mean_w = torch.zeros(STYLE_DIM)

        def forward(self, codes):
            picture = torch.full((len(codes), 3, 1024, 1024), 2.0)
            picture[:, 0] = torch.linspace(-1, 1, 1024)
            picture[:, 2] = -0.5
            return picture

    pictures = Renderer(Ramp())(np.zeros((3, NUM_STYLES, STYLE_DIM), np.float32))
    assert pictures.shape == (3, 256, 256, 3)
    assert pictures.dtype == np.uint8
    assert pictures.flags.c_contiguous, "dlib takes no other arrays"
    np.testing.assert_allclose(pictures[2, 7, :, 0], np.linspace(0, 255, 256), atol=1.5)
    assert (pictures[..., 1] == 255).all()
    assert (pictures[..., 2] == 64).all()


def test_fit_says_what_is_missing(tmp_path):
    from gra_core.lab.directions import fit

    out = tmp_path / "out.safetensors"
    options = ["--nets", str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(out)]
    with pytest.raises(GRAError, match="--samples"):
        fit.main(["fit", *options])
    with pytest.raises(GRAError, match="--nets DIR"):
        fit.main(["fit", *options[2:], "--samples", "4"])
    with pytest.raises(GRAError, match="without --kept first"):
        fit.main(["fit", *options, "--samples", "4", "--kept"])
    with pytest.raises(CheckpointError, match=r"emotion\.json"):
        fit.main(["fit", *options, "--samples", "4"])
    assert not out.exists()


def test_sample_folder_must_match_its_codes(tmp_path):
    from gra_core.lab.directions.fit import measure_folder

    with pytest.raises(GRAError, match="not a folder of samples"):
        measure_folder(tmp_path, None)
    np.save(tmp_path / "w.npy", np.zeros((1, STYLE_DIM), np.float32))
    for i in range(2):
        Image.new("RGB", (256, 256)).save(tmp_path / f"{i:05d}.jpg")
    with pytest.raises(GRAError, match="do not match"):
        measure_folder(tmp_path, None)


def test_measures_are_kept_beside_the_samples(tmp_path):
    from gra_core.lab.directions.fit import measure_folder

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


def test_check_prints_every_edit(capsys, shipped):
    from gra_core.lab.directions import fit

    assert fit.main(["check"]) == 0
    output = capsys.readouterr().out
    for key in shipped:
        assert f"\n{key} " in output


class PlantedFace:
    """Draws faces whose scores are what the codes say, so that the check's figures are known."""

    def __init__(self, edits, slopes, count):
        self.edits, self.slopes, self.count, self.drawn = list(edits), slopes, count, []

    def draw(self, strengths):
        self.drawn += list(strengths)
        pictures = np.stack([np.full((256, 256, 3), 40 + face, np.uint8) for face in range(self.count)])
        for key, value in strengths.items():
            pictures[:, 0, 0, 0] = self.edits.index(key) + 1
            pictures[:, 0, 1, 0] = int(value) + 100
        return pictures

    def scorer(self, pictures):
        from gra_core.lab.directions.scores import SCORED_BY

        edit, value = pictures[:, 0, 0, 0].astype(int) - 1, pictures[:, 0, 1, 0].astype(float) - 100
        result = {}
        for key, parts in SCORED_BY.items():
            slope = np.array([self.slopes.get((self.edits[e], key), 0) if 0 <= e < 5 else 0 for e in edit])
            result |= {part: slope * value + pictures[:, 5, 5, 0] for part in parts}
        return result


def test_check_measures_effects_entanglements_and_order(monkeypatch, tmp_path):
    from gra_core.lab.directions import check
    from gra_core.lab.directions.workers import ScoringPool
    from gra_core.metrics import identity

    monkeypatch.setattr(identity, "face_descriptor", lambda p: np.asarray(p)[0, :2, 0] / 200)
    edits = {k: EditDirection(k, k, "", -100, 100, np.ones((16, 512), np.float32)) for k in ("smile", "age")}
    edits["lips"] = EditDirection("lips", "Lips", "", 0, 100, np.ones((16, 512), np.float32))
    edits["grin"] = EditDirection("grin", "Grin", "", -100, 100, np.ones((16, 512), np.float32), score="smile")
    slopes = {("smile", "smile"): 2, ("smile", "age"): 0.5, ("age", "age"): 5, ("lips", "lips"): -1}
    planted = PlantedFace(edits, slopes | {("grin", "smile"): 4, ("grin", "age"): 2}, count=3)
    pool = ScoringPool(planted.scorer)
    results = check.measure_edits(edits, planted.draw, pool, tmp_path)
    assert list(results) == list(edits)
    matrix = [[0.5, 0.1, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0.4, 0, 1]]
    np.testing.assert_allclose(check.entanglement_matrix(edits, results), matrix, atol=1e-6)
    assert check.worst_entanglement(edits, results, "grin") == (pytest.approx(0.4), "age"), "smile is its own score"
    assert check.misses(edits, results, "smile") == ["identity"]
    assert check.misses(edits, results, "grin") == ["entanglement", "identity"]
    assert check.misses(edits, results, "lips") == ["order", "identity"]
    table = check.effects(results)
    assert table[0, check.SCORES.index("smile")] == pytest.approx(120)
    assert table[2, check.SCORES.index("lips")] == pytest.approx(-60), "one-sided: from 0 to 60"
    assert [check.monotone_share(edits[key], results[key]) for key in edits] == [1, 1, 0, 1]
    assert (results["lips"].identity[0] == 0).all()
    assert results["smile"].identity[1, 0] == pytest.approx(np.hypot(1 - 40, 200 - 40) / 200)

    planted.drawn.clear()
    edits["age"] = EditDirection("age", "age", "", -100, 100, np.full((16, 512), 2, np.float32))
    again = check.measure_edits(edits, planted.draw, pool, tmp_path)
    assert set(planted.drawn) == {"age"}, "only the edit that changed is measured again"
    np.testing.assert_array_equal(again["smile"].scores, results["smile"].scores)

    text = check.report(edits, {"generated": results}, np.ones(len(check.SCORES)))
    assert "| smile (`smile`) | 0-15 | 120.00 | 100% | 10% age |" in text
    assert "| Grin (`grin`) | 0-15 | 240.00 | 100% | 40% age |" in text
    page = tmp_path / "directions.md"
    page.write_text("# Title\n\nBy hand.\n")
    check.write_report(page, text)
    check.write_report(page, text)
    written = page.read_text()
    assert written.startswith("# Title\n\nBy hand.\n")
    assert written.count(check.MARKS[0]) == written.count("### Generated, 3 faces") == 1


def test_measures_of_other_faces_are_not_taken(monkeypatch, tmp_path):
    from gra_core.lab.directions import check
    from gra_core.lab.directions.workers import ScoringPool
    from gra_core.metrics import identity

    monkeypatch.setattr(identity, "face_descriptor", lambda _: np.zeros(128))
    edits = {"smile": EditDirection("smile", "smile", "", -100, 100, np.ones((16, 512), np.float32))}
    for count in (2, 3):
        planted = PlantedFace(edits, {("smile", "smile"): 2}, count)
        results = check.measure_edits(edits, planted.draw, ScoringPool(planted.scorer), tmp_path)
        assert results["smile"].scores.shape[1] == count


def test_scoring_process_that_cannot_start_does_not_hang(tmp_path):
    from gra_core.lab.directions import workers

    with workers.ScoringPool(None, 1, tmp_path, np.zeros(1)) as pool, pytest.raises(Exception, match="abruptly"):
        pool(np.zeros((1, 256, 256, 3), np.uint8))  # its nets are not there


def test_strips_show_every_slider_value(tmp_path):
    from gra_core.lab.directions import check

    edits = {"lips": EditDirection("lips", "Lips", "", -100, 100, np.ones((16, 512), np.float32), "Lower face")}
    seen = []

    def draw(strengths):
        seen.append(strengths.get("lips", 0))
        return np.full((2, 256, 256, 3), 100, np.uint8)

    check.write_strips(tmp_path, edits, draw)
    assert sorted(seen) == sorted(check.PICTURED)
    with Image.open(tmp_path / "lower-face.webp") as sheet:
        assert sheet.size == (5 * check.STRIP_SIZE, 2 * check.STRIP_SIZE)


def test_check_draws_photos_with_the_whole_editor(monkeypatch, tmp_path):
    from types import SimpleNamespace

    import torch

    from gra_core import editor
    from gra_core.lab.directions import faces

    class Editor:
        """Inverts a photo to its red level; an edit adds what it adds to the code."""

        device = torch.device("cpu")
        generator = None

        @classmethod
        def from_pretrained(cls, device):
            return cls()

        def invert_batch(self, photos):
            return torch.zeros(len(photos), 16, 512), photos[:, 0].mean((1, 2))

        @property
        def streams(self):
            def editing(_, codes, level):
                picture = torch.full((len(codes), 3, 1024, 1024), -1.0)
                picture[:, 0] = (level + codes[:, 0, 0] / 127.5)[:, None, None]
                return SimpleNamespace(picture=picture)

            return SimpleNamespace(editing=editing)

    monkeypatch.setattr(editor, "PortraitEditor", Editor)
    for level in (10, 20, 30, 40, 50):
        Image.new("RGB", (64, 64), (level, 0, 0)).save(tmp_path / f"{level}.png")
    files = faces.photo_files(tmp_path, 3)
    for batch in (1, 2):
        monkeypatch.setitem(faces.BATCH, "cpu", batch)
        (photos,) = faces.photo_faces(files, 3)
        assert photos.codes.shape == (3, 16, 512)
        pictures = photos.draw(np.full((16, 512), 5, np.float32))
        assert pictures.shape == (3, 256, 256, 3)
        assert [int(picture[9, 9, 0]) for picture in pictures] == [15, 35, 55], "photos from all over the folder"
        each = photos.draw(np.stack([np.full((16, 512), k, np.float32) for k in (1, 2, 3)]))
        assert [int(picture[9, 9, 0]) for picture in each] == [11, 32, 53], "an offset for each face"
        assert [len(part.codes) for part in faces.photo_faces(files, 2)] == [2, 1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(GRAError, match="no pictures"):
        faces.photo_files(tmp_path / "empty", 3)
