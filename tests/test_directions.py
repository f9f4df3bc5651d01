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
    from gra_core.directions.scores import SCORES

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
    from gra_core.directions.boundaries import fit_boundary

    w, normal, _, rng = planted()
    boundary = fit_boundary(w, w @ normal + 0.2 * rng.normal(size=len(w)), penalty=0.1)
    assert boundary.normal @ normal > 0.9
    assert np.linalg.norm(boundary.normal) == pytest.approx(1, abs=1e-5)
    assert boundary.accuracy > 0.95
    assert boundary.agreement > 0.7


def test_noise_is_not_taken_for_an_attribute():
    from gra_core.directions.boundaries import fit_boundary

    w, _, _, rng = planted()
    boundary = fit_boundary(w, rng.normal(size=len(w)), penalty=0.1)
    assert 0.35 < boundary.accuracy < 0.65
    assert abs(boundary.agreement) < 0.2


def test_condition_orthogonalises():
    from gra_core.directions.boundaries import condition

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
    """Responses of atoms that are unit vectors."""
    from gra_core.directions.response import Responses

    rng = np.random.default_rng(seed)
    slopes = np.asarray(mean, float)[:, None] + noise * rng.normal(size=(len(mean), faces, len(mean[0])))
    return Responses(slopes.mean(1), slopes - slopes.mean(1, keepdims=True), np.eye(len(mean)))


def test_combine_moves_one_score_alone():
    from gra_core.directions.response import combine

    mean = np.random.default_rng(0).normal(size=(12, 6))
    weights = np.array([1, 1, 1, 1, 1, 0.0])
    amounts = combine(measured(mean), 2, weights, step=1e-4)
    moved = amounts @ mean
    assert moved[2] == pytest.approx(1)
    assert np.abs(moved[[0, 1, 3, 4]]).max() < 0.02
    short = combine(measured(mean), 2, weights, step=10.0)
    assert np.linalg.norm(short) < np.linalg.norm(amounts), "a higher price of length makes shorter edits"


def test_combine_avoids_leaks_that_differ_from_face_to_face():
    from gra_core.directions.response import Responses, combine

    deviation = np.zeros((2, 4, 2))
    deviation[0, :, 1] = 3, -3, 3, -3  # no leak on average
    responses = Responses(np.array([[1.0, 0], [1, 0]]), deviation, np.eye(2))
    amounts = combine(responses, 0, np.ones(2), step=0.01)
    assert amounts[0] < 0.1 * amounts[1]


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
    from gra_core.directions.boundaries import Boundary
    from gra_core.directions.fit import build_edits, final_amounts, first_amounts
    from gra_core.directions.recipes import GIVEN_UP, IGNORED, RECIPES, band_atoms
    from gra_core.directions.response import Responses
    from gra_core.directions.scores import MEASURES, SCORES

    rng = np.random.default_rng(2)
    normals = rng.normal(size=(len(MEASURES), STYLE_DIM)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    boundaries = {key: Boundary(normal, 0.9, 0.8) for key, normal in zip(MEASURES, normals, strict=True)}
    atoms = band_atoms(boundaries)
    for key in FIRST_KEYS:
        atoms[f"{key}.start"] = atoms[f"{key}.coarse"] + atoms[f"{key}.middle"]
    own = np.array([[key == name.split(".")[0] for key in SCORES] for name in atoms], float)
    slopes = (own + 0.2 * rng.normal(size=own.shape))[:, None] + 0.05 * rng.normal(size=(len(own), 4, len(SCORES)))
    responses = Responses.measured(slopes, np.stack(list(atoms.values())))
    assert first_amounts(responses).shape == (len(RECIPES), len(atoms))
    amounts = final_amounts(list(atoms), responses)
    edits = build_edits(amounts, atoms, boundaries, samples=500, faces=4)
    recipes = [recipe for recipe in RECIPES if recipe.key not in GIVEN_UP]
    assert [edit.key for edit in edits] == [recipe.key for recipe in recipes]
    assert [edit.key for edit in edits][: len(FIRST_KEYS)] == FIRST_KEYS
    for edit, recipe, row in zip(edits, recipes, amounts, strict=True):
        assert "500 generated faces" in edit.provenance
        moved, column = row @ responses.mean, SCORES.index(recipe.key)
        assert moved[column] > 0.3
        if recipe.kept:
            np.testing.assert_allclose(edit.vector, atoms[f"{recipe.key}.start"] / 0.6, rtol=1e-5, atol=1e-6)
        elif not recipe.trim:  # trims answer to leaks that were measured on pictures; there are none here
            assert np.linalg.norm(edit.vector) <= recipe.longest * 1.001
            held = [s not in (*IGNORED, *GIVEN_UP, *recipe.along, recipe.key) for s in SCORES]
            assert np.abs(moved[held]).max() < 0.35 * moved[column]


def test_renderer_gives_pictures_that_can_be_scored():
    import torch

    from gra_core.directions.sampling import Renderer

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
    from gra_core.directions import fit

    out = tmp_path / "out.safetensors"
    options = ["--nets", str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(out)]
    with pytest.raises(GRAError, match="--samples"):
        fit.main(["fit", *options])
    with pytest.raises(CheckpointError, match=r"emotion\.json"):
        fit.main(["fit", *options, "--samples", "4"])
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


def test_check_prints_every_edit(capsys, shipped):
    from gra_core.directions import fit

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
        from gra_core.directions.scores import SCORED_BY

        edit, value = pictures[:, 0, 0, 0].astype(int) - 1, pictures[:, 0, 1, 0].astype(float) - 100
        result = {}
        for key, parts in SCORED_BY.items():
            slope = np.array([self.slopes.get((self.edits[e], key), 0) if 0 <= e < 5 else 0 for e in edit])
            result |= {part: slope * value + pictures[:, 5, 5, 0] for part in parts}
        return result


def test_check_measures_effects_leaks_and_order(monkeypatch, tmp_path):
    from gra_core.directions import check
    from gra_core.directions.workers import ScoringPool
    from gra_core.evaluation import identity

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
    np.testing.assert_allclose(check.leak_matrix(edits, results), matrix, atol=1e-6)
    assert check.worst_leak(edits, results, "grin") == (pytest.approx(0.4), "age"), "smile is its own score"
    assert check.misses(edits, results, "smile") == ["identity"]
    assert check.misses(edits, results, "grin") == ["leak", "identity"]
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
    from gra_core.directions import check
    from gra_core.directions.workers import ScoringPool
    from gra_core.evaluation import identity

    monkeypatch.setattr(identity, "face_descriptor", lambda _: np.zeros(128))
    edits = {"smile": EditDirection("smile", "smile", "", -100, 100, np.ones((16, 512), np.float32))}
    for count in (2, 3):
        planted = PlantedFace(edits, {("smile", "smile"): 2}, count)
        results = check.measure_edits(edits, planted.draw, ScoringPool(planted.scorer), tmp_path)
        assert results["smile"].scores.shape[1] == count


def test_scoring_process_that_cannot_start_does_not_hang(tmp_path):
    from gra_core.directions import workers

    with workers.ScoringPool(None, 1, tmp_path, np.zeros(1)) as pool, pytest.raises(Exception, match="abruptly"):
        pool(np.zeros((1, 256, 256, 3), np.uint8))  # its nets are not there


def test_strips_show_every_slider_value(tmp_path):
    from gra_core.directions import check

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
    from gra_core.directions import faces

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
