"""Fits the edit directions to generated faces.

    python -m gra_core directions fit --nets DIR --samples 3000 --work DIR --out checkpoints/directions.safetensors

1. Sample codes w, synthesise, score (`scores`), and fit a linear boundary in W for each attribute (`boundaries`):
   InterFaceGAN, Shen et al., CVPR 2020, https://arxiv.org/abs/1907.10786.
2. Put each boundary on bands of rows of the W+ code and measure what these atoms do to the scores of a few faces.
3. Sum atoms so that each edit moves its own score alone (`response.combine`), which also chooses its rows, and scale it
   to the effect wanted (`recipes`).
4. Measure these first edits on other faces, learn from the difference what the atoms do (`Responses.updated`), and sum
   them anew. Kept edits are shipped as the file that the fit starts from has them.

A folder of samples holds `w.npy`, float32 (N, 512), and the pictures `00000.jpg`, `00001.jpg`, ... of 256 px. Their
measures are kept in `measures.npz` beside them, as long as the glasses probe stays the same. With `glasses.csv`
(columns file,glasses: 0 or 1) in such a folder the glasses probe is trained anew; otherwise it is taken from the
shipped directions file, in which it is kept.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from gra_core.checkpoints import record_checksum
from gra_core.constants import MAX_STRENGTH, STYLE_DIM
from gra_core.directions import check, scores, search
from gra_core.directions.boundaries import Boundary, fit_boundary, targets
from gra_core.directions.recipes import GIVEN_UP, IGNORED, RECIPES, STYLE_RECIPES, Recipe, band_atoms
from gra_core.directions.registry import DIRECTIONS_FILE, EditDirection, load_directions, save_directions
from gra_core.directions.response import Responses, codes_of, combine, measure_slopes
from gra_core.directions.sampling import Renderer, load_generator, sample_w
from gra_core.directions.scores import SCORE_SIZE, SCORES, FaceScorer, attribute_scores, glasses_features
from gra_core.directions.stylespace import style_edits
from gra_core.directions.tfjs import require
from gra_core.errors import CheckpointError, GRAError

PROBE = "glasses_probe"
"""Tensor of the directions file that holds the glasses probe, (F + 1,)."""

RIDGE = 3.0
"""Weight of the penalty, per sample, on w of unit variance."""

STEP = 0.01
"""How much the length of an edit matters beside its leaks, see `response.combine`."""

STRENGTH = 60.0
"""Slider value at which the first edits are tried."""

START = "start"
"""What the names of atoms end in that are edits of the file that the fit starts from."""

FACE_TRUNCATION = 0.7
"""Truncation of the faces that effects are measured on: a little less varied than the samples."""

SUNGLASSES_TINT = 0.45

PROBE_C = 3.0
"""Inverse regularisation of the glasses probe, by five-fold cross-validation on 1,400 labelled pictures."""

PROBE_TOLERANCE = 0.01
"""Training on the same labels again changes no weight of the probe by more than this (they are about 0.1)."""


def fit_boundaries(w: np.ndarray, measures: Mapping[str, np.ndarray]) -> dict[str, Boundary]:
    """Boundaries by attribute for samples w (N, 512) and their measures (N,)."""
    clear = measures["lens_tint"] < SUNGLASSES_TINT
    boundaries = {}
    for key, target in targets(measures).items():
        keep = clear if key == "glasses" else slice(None)
        boundaries[key] = fit_boundary(w[keep], target[keep], RIDGE)
    return boundaries


def leak_weights(recipe: Recipe, ignored: Sequence[str] = IGNORED) -> np.ndarray:
    """How much a leak of an edit into each score matters, (S,)."""
    return np.array([0.0 if s in ignored else 0.1 if s in recipe.along else 1.0 for s in SCORES])


def first_amounts(responses: Responses) -> np.ndarray:
    """How much of each atom each edit of `RECIPES` at +100 is made of before it is tried, (E, K).

    Args:
        responses: of the atoms, in standard deviations of the scores.
    """
    return np.stack(
        [_scaled(r, responses, combine(responses, SCORES.index(r.key), leak_weights(r), STEP)) for r in RECIPES]
    )


def final_amounts(names: Sequence[str], responses: Responses) -> np.ndarray:
    """As `first_amounts`, from what trying them taught, and without those given up; kept ones are the start file's.

    `names` are those of the atoms.
    """
    recipes = [recipe for recipe in RECIPES if recipe.key not in GIVEN_UP]
    rows = {}
    for recipe in recipes:
        if recipe.kept:
            rows[recipe.key] = np.array([float(name == f"{recipe.key}.{START}") for name in names])
            rows[recipe.key] *= MAX_STRENGTH / STRENGTH
        else:
            weights = leak_weights(recipe, (*IGNORED, *GIVEN_UP))
            amounts = combine(responses, SCORES.index(recipe.key), weights, STEP)
            rows[recipe.key] = _scaled(recipe, responses, amounts)
    return np.stack([r.scale * (rows[r.key] + sum(part * rows[key] for key, part in r.trim.items())) for r in recipes])


def _scaled(recipe: Recipe, responses: Responses, amounts: np.ndarray) -> np.ndarray:
    length = float(np.sqrt(amounts @ responses.gram @ amounts))
    return amounts * min(recipe.effect, recipe.longest / length)


def build_edits(
    amounts: np.ndarray, atoms: Mapping[str, np.ndarray], boundaries: Mapping[str, Boundary], samples: int, faces: int
) -> list[EditDirection]:
    """The edits of `RECIPES` that are not given up, in that order, shipped or not.

    Args:
        amounts: (E, K) of the atoms, see `final_amounts`.
        atoms: offsets (16, 512) by name.
        boundaries: by attribute, for the provenance.
        samples: number of faces that they were fitted to.
        faces: number of faces that effects were measured on.
    """
    edits = []
    vectors = np.tensordot(amounts, np.stack(list(atoms.values())), 1).astype(np.float32)
    for recipe, vector in zip((r for r in RECIPES if r.key not in GIVEN_UP), vectors, strict=True):
        provenance = (
            f"InterFaceGAN boundary in W on bands of rows, {samples} generated faces, "
            f"{boundaries[recipe.key].accuracy:.3f} of the extremes of held-out halves on the right side; leaks taken "
            f"out by effects measured on {faces} faces"
        )
        texts = (recipe.key, recipe.label, recipe.hint, -MAX_STRENGTH, MAX_STRENGTH, vector, recipe.group)
        edits.append(EditDirection(*texts, recipe.caveat, provenance, kind="interfacegan"))
    return edits


def _sample_files(folder: Path) -> tuple[np.ndarray, list[Path]]:
    """Codes (N, 512) and picture files of a folder of samples."""
    try:
        w = np.load(folder / "w.npy").astype(np.float32)
    except (OSError, ValueError) as error:
        raise GRAError(f"{folder} is not a folder of samples: {error}") from error
    files = sorted(folder.glob("[0-9]*.jpg"))
    if w.ndim != 2 or w.shape[1] != STYLE_DIM or not files or len(w) < len(files):
        raise GRAError(f"{folder} holds {len(files)} pictures and codes of shape {w.shape}; they do not match.")
    return w[: len(files)], files


def _read(files: Sequence[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((SCORE_SIZE, SCORE_SIZE))) for file in files])


def _chunks(files: Sequence[Path], size: int = 256) -> Iterator[np.ndarray]:
    for start in range(0, len(files), size):
        yield _read(files[start : start + size])


def measure_folder(folder: Path, scorer: FaceScorer) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes (N, 512) and measures (N,) of a folder of samples; the measures are kept there for the next time.

    Raises:
        GRAError: it is not a folder of samples.
    """
    w, files = _sample_files(folder)
    cache = folder / "measures.npz"
    if cache.is_file():
        measures = dict(np.load(cache))
        probe = measures.pop(PROBE, np.zeros(0))
        same = probe.shape == scorer.probe.shape and np.allclose(probe, scorer.probe, atol=PROBE_TOLERANCE)
        if same and len(measures["happy"]) == len(w):
            return w, measures
    parts = [scorer(pictures) for pictures in _chunks(files)]
    measures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    np.savez(cache, **measures, **{PROBE: scorer.probe})
    return w, measures


def train_probe(folders: Sequence[Path]) -> np.ndarray | None:
    """Glasses probe (F + 1,), float16, from the `glasses.csv` files in the folders; None when there is none.

    Raises:
        CheckpointError: scikit-learn is not installed.
    """
    features, labels = [], []
    for folder in folders:
        if not (folder / "glasses.csv").is_file():
            continue
        with (folder / "glasses.csv").open(newline="") as file:
            rows = [(folder / row["file"], int(row["glasses"])) for row in csv.DictReader(file)]
        features += [glasses_features(pictures) for pictures in _chunks([path for path, _ in rows])]
        labels += [label for _, label in rows]
    if not labels:
        return None
    require("sklearn")
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    model = LogisticRegression(C=PROBE_C, max_iter=1000).fit(np.concatenate(features), labels)
    return np.append(model.coef_[0], model.intercept_).astype(np.float16)


def load_probe(path: Path = DIRECTIONS_FILE) -> np.ndarray:
    """Glasses probe (F + 1,), float16, that is kept in a directions file.

    Raises:
        CheckpointError: the file is missing or holds none.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(PROBE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no glasses probe; give samples with a glasses.csv.") from error


def _slopes(
    offsets: Mapping[str, np.ndarray], faces: np.ndarray, render: Renderer, scorer: FaceScorer, work: Path
) -> np.ndarray:
    """Slopes (K, N, S) of offsets, each kept in the folder `work` as soon as it is measured."""
    work.mkdir(parents=True, exist_ok=True)
    slopes = []
    for name, offset in offsets.items():
        file = work / f"{name}.npz"
        kept = dict(np.load(file)) if file.is_file() else {}
        if not kept or not np.allclose(kept["offset"], offset, atol=1e-2) or not np.allclose(kept["faces"], faces):
            kept = {"offset": offset, "faces": faces, "slopes": measure_slopes(render, scorer, faces, offset[None])[0]}
            np.savez(file, **kept)
        slopes.append(kept["slopes"])
    return np.stack(slopes)


def main(argv: Sequence[str] | None = None) -> int:
    """`directions fit ...`, `directions search ...` and `directions check ...`."""
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gra_core directions", description=__doc__, formatter_class=verbatim)
    commands = parser.add_subparsers(dest="action", required=True)
    fit = commands.add_parser(
        "fit", help="fit the directions to generated faces", epilog=scores.__doc__, formatter_class=verbatim
    )
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    fit.add_argument("--nets", type=Path, required=True, metavar="DIR", help="folder of the scoring nets, see below")
    fit.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps the measured effects")
    fit.add_argument("--samples", type=int, default=0, metavar="N", help="faces to generate")
    fit.add_argument("--samples-dir", type=Path, action="append", default=[], metavar="DIR", help="faces made before")
    fit.add_argument("--start", type=Path, default=DIRECTIONS_FILE, metavar="FILE", help="edits that are atoms too")
    fit.add_argument("--faces", type=int, default=8, metavar="N", help="faces to measure atoms on, and then edits (8)")
    fit.add_argument("--all", action="store_true", help="write also the edits that did not pass the check")
    fit.add_argument("--compile", action="store_true", help="compile the generator first: worth it from 500 faces up")
    fit.add_argument("--seed", type=int, default=0)
    checking = commands.add_parser(
        "check", help="measure what each edit does", epilog=scores.__doc__, formatter_class=verbatim
    )
    check.add_arguments(checking)
    searching = commands.add_parser(
        "search",
        help="search style channels for local ones",
        description=search.__doc__,
        formatter_class=verbatim,
    )
    search.add_arguments(searching)
    args = parser.parse_args(argv)
    return {"fit": _fit, "check": check.run, "search": search.run}[args.action](args)


def _fit(args: argparse.Namespace) -> int:
    if args.samples <= 0 and not args.samples_dir:
        raise GRAError("Give --samples N, --samples-dir DIR, or both.")
    probe = train_probe(args.samples_dir)
    probe = load_probe() if probe is None else probe
    scorer = FaceScorer(args.nets, probe)
    start = load_directions(args.start)
    parts = [measure_folder(folder, scorer) for folder in args.samples_dir]
    generator = load_generator()
    render = Renderer(generator, compiled=args.compile)
    if args.samples > 0:
        w = sample_w(generator, args.samples, args.seed)
        scored = [scorer(render(codes_of(w[i : i + 64]))) for i in range(0, len(w), 64)]
        parts.append((w, {name: np.concatenate([s[name] for s in scored]) for name in scored[0]}))
    w = np.concatenate([part[0] for part in parts])
    measures = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    boundaries = fit_boundaries(w, measures)
    print(f"{len(w)} faces\n{'attribute':<14}{'accuracy on held-out extremes':>32}{'cosine of halves':>20}")
    for name, boundary in boundaries.items():
        print(f"{name:<14}{boundary.accuracy:>32.3f}{boundary.agreement:>20.3f}")
    spread = attribute_scores(measures).std(0)
    atoms = band_atoms(boundaries) | {
        f"{key}.{START}": STRENGTH / MAX_STRENGTH * edit.vector for key, edit in start.items()
    }
    faces = sample_w(generator, args.faces, args.seed + 1, FACE_TRUNCATION)
    names = list(atoms)
    slopes = _slopes(atoms, faces, render, scorer, args.work / "atoms") / spread
    responses = Responses.measured(slopes, np.stack(list(atoms.values())))
    first = STRENGTH / MAX_STRENGTH * first_amounts(responses)
    others = sample_w(generator, args.faces, args.seed + 2, FACE_TRUNCATION)
    trials = np.tensordot(first, np.stack(list(atoms.values())), 1).astype(np.float32)
    trials = {recipe.key: offset for recipe, offset in zip(RECIPES, trials, strict=True)}
    slopes = _slopes(trials, others, render, scorer, args.work / "edits") / spread
    amounts = final_amounts(names, responses.updated(first, slopes))
    edits = build_edits(amounts, atoms, boundaries, len(w), 2 * args.faces)
    shipped = {recipe.key for recipe in RECIPES if recipe.shipped}
    kept = {recipe.key for recipe in RECIPES if recipe.kept}
    edits = [replace(edit, provenance=start[edit.key].provenance) if edit.key in kept else edit for edit in edits]
    edits = [edit for edit in edits if edit.key in shipped or args.all]
    edits += style_edits(generator, STYLE_RECIPES)
    save_directions(args.out, edits, {PROBE: probe, check.SPREAD: spread.astype(np.float32)})
    record_checksum(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
