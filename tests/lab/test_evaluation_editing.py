"""Exact edits, with a small linear generator whose code can be told from its picture, and with the shipped one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gra_core.constants import CHECKPOINT_DIR, NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import DIRECTIONS_FILE, EditDirection, load_directions
from gra_core.errors import GRAError
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.lab.directions.sampling import GENERATOR_FILE, load_generator, sample_w
from gra_core.lab.evaluation import editing, grid
from gra_core.lab.evaluation import evaluate as evaluation
from gra_core.lab.evaluation.methods import Method, standard_methods
from gra_core.lab.evaluation.workers import EvaluationContext, Workers
from gra_core.metrics.identity import face_descriptor, identity_distance
from gra_core.metrics.pixels import mse

SIDE, PATTERNS = 256, 6
COUNT = 2
SETTINGS = {f"{key}{value:+g}": {key: value} for key in ("smile", "age") for value in (60.0, -60.0)}


class LinearGenerator:
    """Follows the interface of Generator: a dimmed face plus smooth patterns, linear in the code."""

    def __init__(self, face):
        random = torch.Generator().manual_seed(0)
        self.mean_w = torch.zeros(STYLE_DIM)
        self.mapping = torch.nn.Identity()
        self.face = 0.6 * image_to_tensor(face.resize((SIDE, SIDE)))
        patterns = torch.randn(PATTERNS, 3, 8, 8, generator=random).clamp(-1, 1)
        self.patterns = torch.nn.functional.interpolate(patterns, size=SIDE, mode="bilinear")
        self.weights = torch.randn(NUM_STYLES * STYLE_DIM, PATTERNS, generator=random) / 2000

    def __call__(self, codes):
        return self.face + torch.einsum("bp,pchw->bchw", codes.flatten(1) @ self.weights, self.patterns)

    def code(self, picture):
        """A code of the picture, from its pixels alone."""
        pixels = (image_to_tensor(picture) - self.face).flatten().double()
        patterns, weights = self.patterns.flatten(1).double(), self.weights.double()
        amounts = torch.linalg.solve(patterns @ patterns.T, patterns @ pixels)
        code = weights @ torch.linalg.solve(weights.T @ weights, amounts)
        return code.float().view(1, NUM_STYLES, STYLE_DIM)


class LinearEditor:
    """Follows the interface of PortraitEditor: inverts almost exactly; its low-rate edit stops halfway."""

    device = "cpu"

    def __init__(self, face):
        self.generator = LinearGenerator(face)
        self.edits = {key: self.direction(key, seed) for seed, key in enumerate(("smile", "age"), start=1)}

    @staticmethod
    def direction(key, seed):
        vector = np.random.default_rng(seed).normal(size=(NUM_STYLES, STYLE_DIM)).astype(np.float32) * 5
        return EditDirection(key, key, "", -100, 100, vector)

    def invert(self, aligned):
        return self.generator.code(aligned)

    def edit(self, inversion, strengths):
        return editing.render_exact(self, inversion, strengths)

    def low_rate(self, inversion, strengths):
        return self.edit(inversion, {key: value / 2 for key, value in strengths.items()})


@pytest.fixture(scope="module")
def linear_editor(face) -> LinearEditor:
    return LinearEditor(face)


@pytest.fixture(scope="module")
def measure(linear_editor, random_lpips):
    def run(count=COUNT, **options):
        context = EvaluationContext(linear_editor, SETTINGS, standard_methods(linear_editor), random_lpips)
        return editing.measure_exact_edits(Workers(context), count, **options)

    return run


@pytest.fixture(scope="module")
def result(measure):
    lines = []
    measured = measure(progress=lambda *line: lines.append(line))
    assert [line[:2] for line in lines] == [(1, COUNT), (2, COUNT)]
    return measured


@pytest.mark.skipif(not GENERATOR_FILE.is_file(), reason=f"{GENERATOR_FILE.name} is missing from {CHECKPOINT_DIR}")
def test_target_is_the_generator_at_the_moved_code():
    generator, edits = load_generator(), load_directions(DIRECTIONS_FILE)
    stand_in = SimpleNamespace(generator=generator, edits=edits)
    (code,) = editing.source_codes(generator, 1).split(1)
    assert code.shape == (1, NUM_STYLES, STYLE_DIM)
    spread = sample_w(generator, 1, editing.SOURCE_SEED, truncation=1.0) - generator.mean_w.cpu().numpy()
    np.testing.assert_allclose((code[0, 3] - generator.mean_w).cpu(), 0.7 * spread[0], atol=1e-5)
    target = editing.render_exact(stand_in, code, {"smile": -60.0})
    with torch.inference_mode():
        expected = tensor_to_image(generator(code - 0.6 * torch.tensor(edits["smile"].vector).to(code)))
    assert target.size == (1024, 1024)
    levels = np.abs(np.asarray(target, int) - np.asarray(expected, int))
    assert levels.max() <= 1  # 0.6 is not exact: a level may round the other way


def test_sources_are_the_same_each_time_and_more_of_them_begin_with_the_fewer(linear_editor):
    three = editing.source_codes(linear_editor.generator, 3)
    assert torch.equal(three[:2], editing.source_codes(linear_editor.generator, 2))
    assert not torch.equal(three[0], three[1])


def test_grid_shows_every_method_on_every_source(linear_editor, random_lpips):
    context = EvaluationContext(
        linear_editor, {"smile+60": {"smile": 60.0}}, standard_methods(linear_editor), random_lpips
    )
    picture = np.asarray(grid.draw_grid(context))
    sources = len(grid.grid_sources(context))
    assert sources == grid.GENERATED
    row, column = grid.LABEL_HEIGHT + grid.SIDE, grid.SIDE + grid.GAP
    assert picture.shape == (sources * (grid.LABEL_HEIGHT + 2 * row + grid.GAP), grid.GAP + 3 * column, 3)
    top = 2 * grid.LABEL_HEIGHT

    def cell(method, number):
        left = grid.GAP + number * column
        return picture[top + method * row : top + method * row + grid.SIDE, left : left + grid.SIDE].astype(int)

    assert np.array_equal(cell(0, 0), cell(1, 0))  # the source
    whole, half = (np.abs(cell(method, 2) - cell(method, 0)).mean() for method in (1, 0))
    assert whole > half > 0  # in the order of the methods: low_rate does half


def test_methods_see_only_the_picture_of_the_source(linear_editor, random_lpips):
    seen = []
    source = editing.render_exact(linear_editor, editing.source_codes(linear_editor.generator, 1), {})
    methods = {"copy": Method(seen.append, lambda inversion, strengths: source)}
    settings = {move: SETTINGS[move] for move in ("smile+60", "age-60")}
    measured = editing.measure_exact_edits(
        Workers(EvaluationContext(linear_editor, settings, methods, random_lpips)), 1
    )
    assert [picture.tobytes() for picture in seen] == [source.tobytes()]  # inverted once for all edits
    for figures in measured["summary"].values():
        assert figures["copy"] == figures["unedited"]


def test_a_perfect_method_scores_nothing_and_the_source_more(result):
    assert list(result["summary"]) == ["overall", "smile", "age"]
    for figures in result["summary"].values():
        assert list(figures) == ["unedited", "low_rate", "gra"]
        for key, nearly in (("lpips", 1e-4), ("mse", 1e-5), ("identity", 0.05)):
            unedited, half, perfect = (figures[name][key]["mean"] for name in figures)
            assert 0 <= perfect < nearly
            assert perfect < half < unedited


def test_figures_are_distances_to_the_target(result, linear_editor, random_lpips):
    code = editing.source_codes(linear_editor.generator, COUNT)[1:]
    source = tensor_to_image(linear_editor.generator(code))
    offset = 0.6 * torch.from_numpy(linear_editor.edits["age"].vector)
    target = tensor_to_image(linear_editor.generator(code + offset))
    figures = result["per_source"][1]["moves"]["age+60"]["unedited"]
    pair = [image_to_tensor(picture) for picture in (source, target)]
    assert figures["mse"] == pytest.approx(mse(*pair).item(), rel=1e-3)
    assert figures["lpips"] == pytest.approx(random_lpips(*pair).item(), rel=1e-3)
    expected = identity_distance(face_descriptor(source), face_descriptor(target))
    assert figures["identity"] == pytest.approx(expected, abs=1e-3)


def test_summary_means_lie_in_their_intervals_and_count_faces(result):
    for by_method in result["summary"].values():
        for figures in by_method.values():
            for figure in figures.values():
                low, high = figure["ci95"]
                assert figure["n"] == COUNT
                assert low <= figure["mean"] <= high
    faces = [
        np.mean([entry["moves"][move]["low_rate"]["mse"] for move in ("smile+60", "smile-60")])
        for entry in result["per_source"]
    ]
    figure = result["summary"]["smile"]["low_rate"]["mse"]
    assert figure["mean"] == pytest.approx(np.mean(faces), rel=1e-5)
    assert figure["ci95"] == pytest.approx(sorted(faces), rel=1e-5)
    edits = [result["summary"][key]["low_rate"]["mse"]["mean"] for key in ("smile", "age")]
    assert result["summary"]["overall"]["low_rate"]["mse"]["mean"] == pytest.approx(np.mean(edits), rel=1e-5)


def test_measuring_again_gives_the_same(result, measure):
    assert measure(count=1)["per_source"] == result["per_source"][:1]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_table_has_a_row_for_each_edit_and_method(result):
    head, _, *rows = [line for line in editing.exact_edits_table(result).splitlines() if line.startswith("|")]
    assert head == "| edit | method | LPIPS 256 px | MSE 256 px | identity |"
    names = [tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows]
    assert names == [(edit, name) for edit in ("overall", "smile", "age") for name in ("unedited", "low_rate", "gra")]
    assert f"| overall | unedited | {result['summary']['overall']['unedited']['lpips']['mean']:.4f} [" in rows[0]


def test_run_adds_the_exact_edits_when_asked(linear_editor, random_lpips, face, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation.PortraitEditor, "from_pretrained", lambda source, device: linear_editor)
    monkeypatch.setattr(evaluation, "load_lpips", lambda device: random_lpips)
    face.save(tmp_path / "a.png")
    out = tmp_path / "report.json"
    with pytest.raises(GRAError, match="at least one edit"):
        evaluation.run(tmp_path, out, edits=(), edits_exact=1)
    report = evaluation.run(tmp_path, out, methods=["gra"], edits=("age",), strength=40, limit=0, edits_exact=1)
    assert json.loads(out.read_text()) == report
    assert list(report["exact_edits"]["per_source"][0]["moves"]) == ["age+40", "age-40"]
    assert report["exact_edits"]["settings"]["methods"] == ["unedited", "gra"]
    tables = evaluation.markdown_table(report) + "\n" + editing.exact_edits_table(report["exact_edits"])
    assert capsys.readouterr().out == tables
    assert "exact_edits" not in evaluation.run(tmp_path, methods=["gra"], edits=("age",), limit=0)
