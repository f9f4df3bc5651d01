"""Fits the edit directions to generated faces.

    python -m gra_core directions fit --nets DIR --samples 6000 --photos DIR --work DIR --out FILE

1. Sample codes w, synthesise, score (`scores`), and fit a linear boundary in W for each attribute (`boundaries`):
   InterFaceGAN, Shen et al., CVPR 2020, https://arxiv.org/abs/1907.10786.
2. Put each boundary on bands of rows of the W+ code; these, two style channels, principal components of W (`ganspace`)
   and the edits of the file that the fit starts from are the basis directions. Measure what each does to the scores
   and to the face descriptor of generated faces, and of photos as the whole editor shows them (`measuring`).
3. Sum basis directions so that each edit moves its own score alone and changes the person little (`planning`), which
   also chooses its rows, and scale it to the effect wanted (`recipes`).
4. Try these first edits on other faces, learn from the difference what the basis directions do (`Responses.updated`),
   sum them anew, and scale each so that ±100 keeps the person, as far as the trial tells.
5. Take entanglements that are left out of some edits by adding a little of others (`correcting`).

The folder `--work` keeps all that was measured. With `--kept` nothing is measured: the edits are summed from what the
folder holds, in seconds and without the scoring nets, such as after a recipe was changed. On a machine with a GPU and
many cores, `--device cuda --processes 16` renders there and scores in that many processes.

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
from time import monotonic

import numpy as np
from PIL import Image
from safetensors import SafetensorError

from gra_core.checkpoints import record_checksum
from gra_core.constants import MAX_STRENGTH, STYLE_DIM
from gra_core.directions.registry import (
    DIRECTIONS_FILE,
    GLASSES_PROBE,
    load_directions,
    load_glasses_probe,
    save_directions,
)
from gra_core.errors import CheckpointError, GRAError
from gra_core.lab.directions import behaviour, check, correcting, scores, search
from gra_core.lab.directions.boundaries import Boundary, fit_boundary, targets
from gra_core.lab.directions.channels import style_basis, style_edits
from gra_core.lab.directions.correcting import correction_faces
from gra_core.lab.directions.ganspace import COUNT, component_basis, component_edits, components
from gra_core.lab.directions.measuring import (
    BASIS_FACTORS,
    PLAIN,
    PROBE_TOLERANCE,
    groups_of,
    measure_group,
    responses_of,
    score_samples,
    try_edits,
)
from gra_core.lab.directions.planning import (
    START,
    STRENGTH,
    build_edits,
    component_candidates,
    learn_from_trials,
    plan,
    print_plan,
)
from gra_core.lab.directions.recipes import COMPONENT_RECIPES, RECIPES, STYLE_RECIPES, band_basis
from gra_core.lab.directions.sampling import Renderer, load_generator, sample_w
from gra_core.lab.directions.scores import SCORE_SIZE, attribute_scores, glasses_features
from gra_core.lab.directions.tfjs import require
from gra_core.lab.directions.workers import Measures, ScoringPool, add_machine_arguments

RIDGE = 3.0
"""Weight of the penalty, per sample, on w of unit variance."""

SUNGLASSES_TINT = 0.45

PROBE_C = 3.0
"""Inverse regularisation of the glasses probe, by five-fold cross-validation on 1,400 labelled pictures."""


def fit_boundaries(w: np.ndarray, measures: Mapping[str, np.ndarray]) -> dict[str, Boundary]:
    """Boundaries by attribute for samples w (N, 512) and their measures (N,)."""
    clear = measures["lens_tint"] < SUNGLASSES_TINT
    boundaries = {}
    for key, target in targets(measures).items():
        keep = clear if key == "glasses" else slice(None)
        boundaries[key] = fit_boundary(w[keep], target[keep], RIDGE)
    return boundaries


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


def measure_folder(folder: Path, scorer: ScoringPool) -> tuple[np.ndarray, Measures]:
    """Codes (N, 512) and measures (N,) of a folder of samples; the measures are kept there for the next time.

    Raises:
        GRAError: it is not a folder of samples.
    """
    w, files = _sample_files(folder)
    cache = folder / "measures.npz"
    if cache.is_file():
        measures = dict(np.load(cache))
        probe = measures.pop(GLASSES_PROBE, np.zeros(0))
        same = probe.shape == scorer.probe.shape and np.allclose(probe, scorer.probe, atol=PROBE_TOLERANCE)
        if same and len(measures["happy"]) == len(w):
            return w, measures
    parts = [scorer(pictures) for pictures in _chunks(files)]
    measures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    np.savez(cache, **measures, **{GLASSES_PROBE: scorer.probe})
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
    missing = CheckpointError(f"{path} holds no glasses probe; give samples with a glasses.csv.")
    try:
        probe = load_glasses_probe(path)
    except (OSError, SafetensorError) as error:
        raise missing from error
    if probe is None:
        raise missing
    return probe


def parser() -> argparse.ArgumentParser:
    """Options of `directions fit`, `search`, `correct` and `check`."""
    verbatim = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(prog="gra_core directions", description=__doc__, formatter_class=verbatim)
    commands = options.add_subparsers(dest="action", required=True)
    fit = commands.add_parser(
        "fit", help="fit the directions to generated faces", epilog=scores.__doc__, formatter_class=verbatim
    )
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    fit.add_argument("--nets", type=Path, metavar="DIR", help="folder of the scoring nets, see below")
    fit.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps the measured effects")
    fit.add_argument("--samples", type=int, default=0, metavar="N", help="faces to generate")
    fit.add_argument("--samples-dir", type=Path, action="append", default=[], metavar="DIR", help="faces made before")
    fit.add_argument("--photos", type=Path, metavar="DIR", help="aligned photos to measure effects on, too")
    fit.add_argument(
        "--start", type=Path, default=DIRECTIONS_FILE, metavar="FILE", help="edits that are basis directions too"
    )
    fit.add_argument(
        "--faces", type=int, default=16, metavar="N", help="faces of each kind to measure basis directions on (16)"
    )
    fit.add_argument(
        "--minutes", type=float, default=np.inf, help="begin no further measurement of basis directions after these"
    )
    fit.add_argument("--kept", action="store_true", help="measure nothing, use what the work folder holds")
    fit.add_argument("--all", action="store_true", help="write the edits that did not pass, too, at the end")
    add_machine_arguments(fit, seed=0)
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
    correction = commands.add_parser(
        "correct",
        help="take entanglements out of the edits of a file by adding some of each other",
        description=correcting.__doc__,
        epilog=scores.__doc__,
        formatter_class=verbatim,
    )
    correcting.add_arguments(correction)
    calibration = commands.add_parser(
        "calibrate",
        help="measure how the edits of a file behave beside their offsets",
        description=behaviour.__doc__,
        formatter_class=verbatim,
    )
    behaviour.add_arguments(calibration)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """`directions fit ...`, `search ...`, `correct ...`, `calibrate ...` and `check ...`."""
    args = parser().parse_args(argv)
    actions = {
        "fit": _fit,
        "check": check.run,
        "search": search.run,
        "correct": correcting.run,
        "calibrate": behaviour.run,
    }
    return actions[args.action](args)


def _fit(args: argparse.Namespace) -> int:
    if args.samples <= 0 and not args.samples_dir:
        raise GRAError("Give --samples N, --samples-dir DIR, or both.")
    if args.nets is None and not args.kept:
        raise GRAError("Give --nets DIR to measure faces, or --kept to use what was measured before.")
    until = monotonic() + 60 * args.minutes
    probe = train_probe(args.samples_dir)
    probe = load_probe() if probe is None else probe
    if args.kept:
        return _fit_with(args, probe, None, until)
    with ScoringPool.open(args.nets, probe, args.processes) as pool:
        return _fit_with(args, probe, pool, until)


def _fit_with(args: argparse.Namespace, probe: np.ndarray, pool: ScoringPool | None, until: float) -> int:
    generator = load_generator(device=args.device)
    render = Renderer(generator, compiled=args.compile)
    parts = [measure_folder(folder, pool) for folder in args.samples_dir]
    if args.samples > 0:
        w = sample_w(generator, args.samples, args.seed).astype(np.float16).astype(np.float32)
        parts.append((w, score_samples(w, render, pool, probe, args.work / "samples.npz")))
    w = np.concatenate([part[0] for part in parts])
    measures = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    boundaries = fit_boundaries(w, measures)
    print(f"{len(w)} faces\n{'attribute':<14}{'accuracy on held-out extremes':>32}{'cosine of halves':>20}")
    for name, boundary in boundaries.items():
        print(f"{name:<14}{boundary.accuracy:>32.3f}{boundary.agreement:>20.3f}", flush=True)
    spread = attribute_scores(measures).std(0)

    axes, _ = components(generator)
    basis = band_basis(boundaries) | style_basis(generator) | component_basis(axes[:COUNT])
    start = load_directions(args.start)
    basis |= {f"{key}.{START}": STRENGTH / MAX_STRENGTH * edit.vector for key, edit in start.items()}
    names, offsets = list(basis), np.stack(list(basis.values()))
    groups, trial_groups = groups_of(generator, render, args.photos, args.faces, args.seed, args.device)
    wanted = {PLAIN: np.zeros_like(offsets[0])} | basis
    found = [(groups[0], measure_group(groups[0], args.work, wanted, BASIS_FACTORS, pool, until))]
    seen = measure_group(groups[0], args.work, component_basis(axes[COUNT:], COUNT + 1), BASIS_FACTORS, pool, until)
    found += [(group, measure_group(group, args.work, wanted, BASIS_FACTORS, pool, until)) for group in groups[1:]]
    found = [(group, effects) for group, effects in found if len(effects) == len(wanted)]
    if not found:
        raise GRAError(f"No group of faces in {args.work} was measured with all {len(basis)} basis directions.")
    responses = responses_of(found, basis, spread)
    print(f"effects of {len(basis)} directions on {len(responses.kinds)} faces: {', '.join(g.name for g, _ in found)}")

    rows, normals = offsets.mean(1), {key: boundary.normal for key, boundary in boundaries.items()}
    first = plan(names, responses, rows, normals)
    edits = build_edits(first, basis, boundaries, len(w), len(responses.kinds))
    seen |= {name: effect for name, effect in found[0][1].items() if name.startswith("pca")}
    candidates = component_candidates(seen, found[0][1][PLAIN].descriptors[0], spread)
    edits += style_edits(generator, STYLE_RECIPES) + candidates
    trials, runs = try_edits(edits, first, names, offsets, trial_groups, args.work, pool)
    titled = {f"trial, {name}": run for name, run in runs.items()}
    print(check.report({edit.key: edit for edit in edits}, titled, spread), flush=True)
    responses, adding_up = learn_from_trials(responses, trials, runs, spread)
    amounts = plan(names, responses, rows, normals, adding_up)
    print_plan(names, amounts, responses, rows, normals, adding_up)

    final = build_edits(amounts, basis, boundaries, len(w), len(responses.kinds))
    old = {recipe.key for recipe in RECIPES if recipe.kept}
    final = [replace(edit, provenance=start[edit.key].provenance) if edit.key in old else edit for edit in final]
    shipped = {recipe.key for recipe in RECIPES if recipe.shipped}
    rest = [edit for edit in final if edit.key not in shipped] + candidates
    final = [edit for edit in final if edit.key in shipped]
    final += style_edits(generator, STYLE_RECIPES) + component_edits(axes, COMPONENT_RECIPES)
    final = correcting.correct(final, correction_faces(generator, render, args.seed), args.work, spread, pool)
    final += rest if args.all else []
    save_directions(args.out, final, {GLASSES_PROBE: probe, check.SPREAD: spread.astype(np.float32)})
    record_checksum(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
