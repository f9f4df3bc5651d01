"""Fits the edit directions to generated faces.

    python -m gra_core directions fit --nets DIR --samples 6000 --photos DIR --work DIR --out FILE

1. Sample codes w, synthesise, score (`scores`), and fit a linear boundary in W for each attribute (`boundaries`):
   InterFaceGAN, Shen et al., CVPR 2020, https://arxiv.org/abs/1907.10786.
2. Put each boundary on bands of rows of the W+ code; these, two style channels, principal components of W (`ganspace`)
   and the edits of the file that the fit starts from are the atoms. Measure what each does to the scores and to the face
   descriptor of generated faces, and of photos as the whole editor shows them.
3. Sum atoms so that each edit moves its own score alone and changes the person little (`response.combine_evenly`), which
   also chooses its rows, and scale it to the effect wanted (`recipes`).
4. Try these first edits on other faces, learn from the difference what the atoms do (`Responses.updated`), sum them
   anew, and scale each so that ±100 keeps the person, as far as the trial tells.

The folder `--work` keeps all that was measured. With `--kept` nothing is measured: the edits are summed from what the
folder holds, in seconds and without the scoring nets, such as after a recipe was changed. On a machine with a GPU and many
cores, `--device cuda --processes 16` renders there and scores in that many processes.

A folder of samples holds `w.npy`, float32 (N, 512), and the pictures `00000.jpg`, `00001.jpg`, ... of 256 px. Their
measures are kept in `measures.npz` beside them, as long as the glasses probe stays the same. With `glasses.csv`
(columns file,glasses: 0 or 1) in such a folder the glasses probe is trained anew; otherwise it is taken from the
shipped directions file, in which it is kept.
"""

import argparse
import csv
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import monotonic

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from gra_core.checkpoints import record_checksum
from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions import check, scores, search
from gra_core.directions.boundaries import Boundary, fit_boundary, targets
from gra_core.directions.faces import FaceSet, generated_faces, photo_faces, photo_files
from gra_core.directions.ganspace import clean_components, component_atoms, component_edits, components
from gra_core.directions.recipes import COMPONENT_RECIPES, RECIPES, STYLE_RECIPES, Recipe, band_atoms
from gra_core.directions.registry import DIRECTIONS_FILE, EditDirection, load_directions, save_directions
from gra_core.directions.response import Effect, Responses, codes_of, combine_evenly, keep_effect, kept_effects, sweep
from gra_core.directions.sampling import Renderer, load_generator, sample_w
from gra_core.directions.scores import SCORE_SIZE, SCORES, attribute_scores, glasses_features
from gra_core.directions.stylespace import style_atoms, style_edits
from gra_core.directions.tfjs import require
from gra_core.directions.workers import Measures, ScoringPool
from gra_core.errors import CheckpointError, GRAError

PROBE = "glasses_probe"
"""Tensor of the directions file that holds the glasses probe, (F + 1,)."""

RIDGE = 3.0
"""Weight of the penalty, per sample, on w of unit variance."""

STEP = 0.004
"""How much the length of an edit matters beside its leaks, see `response.combine_evenly`."""

ASIDE, ALONG = 0.3, 0.1
"""How much leaks matter into scores that no shipped edit moves, and into those that may move along."""

PLAIN_UNIT = 1.2
"""Effect, in standard deviations, that leaks into scores are compared with where no recipe says one."""

NEARNESS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Weights of the distance from the plain boundary, of which the first is taken that keeps to `Recipe.near`."""

SAFE_IDENTITY = 0.46
"""Mean identity distance at ±100 that edits are scaled down to: below the bound, for other faces differ."""

ADDING_UP = 0.85
"""Identity distance of an untried edit over what its atoms' changes add up to."""

STRENGTH = 60.0
"""Slider value at which the edits of the start file are atoms, and at which leaks are looked at."""

ATOM_FACTORS = (-1.0, 1.0)
TRIAL_FACTORS = tuple(strength / MAX_STRENGTH for strength in check.STRENGTHS if strength)
"""Multiples of the offset at which atoms and edits are measured."""

GROUP = 16
"""Faces that are measured together: what is measured of an incomplete group is not used."""

PLAIN = "plain"
"""Name of the offset of zeros that is measured beside the trials."""

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


def leak_weights(recipe: Recipe) -> np.ndarray:
    """How much a leak of an edit into each score matters, (S,)."""
    moved = {r.key for r in RECIPES if r.shipped} | {r.score for r in STYLE_RECIPES}
    return np.array([ALONG if s in recipe.along else 1.0 if s in moved else ASIDE for s in SCORES])


def plan(
    names: Sequence[str],
    responses: Responses,
    rows: np.ndarray,
    normals: Mapping[str, np.ndarray],
    adding_up: Mapping[str, float] | None = None,
) -> np.ndarray:
    """How much of each atom each edit of `RECIPES` at +100 is made of, (E, K).

    Args:
        names: of the atoms.
        responses: of the atoms, in standard deviations of the scores.
        rows: (K, 512) means of the rows of the atoms' offsets.
        normals: of the boundaries, by attribute.
        adding_up: identity distance at ±100 over what the atoms' changes add up to, by edit, of those tried.
    """
    units = np.full(len(SCORES), PLAIN_UNIT)
    for recipe in RECIPES:
        if recipe.shipped:
            units[SCORES.index(recipe.key)] = recipe.effect * STRENGTH / MAX_STRENGTH
    for _ in range(2):  # the second time with the effects that the bounds of length and identity leave
        amounts = np.stack(
            [
                _amounts(r, names, responses, rows, normals, units, (adding_up or {}).get(r.key, ADDING_UP))
                for r in RECIPES
            ]
        )
        for recipe, row in zip(RECIPES, amounts, strict=True):
            own = SCORES.index(recipe.key)
            if recipe.shipped:
                units[own] = max(row @ responses.mean[:, own] * STRENGTH / MAX_STRENGTH, 0.2)
    return amounts


def _amounts(
    recipe: Recipe,
    names: Sequence[str],
    responses: Responses,
    rows: np.ndarray,
    normals: Mapping[str, np.ndarray],
    units: np.ndarray,
    adding_up: float,
) -> np.ndarray:
    """Amounts (K,) of one edit at +100, see `plan`."""
    if recipe.kept:
        return np.array([float(name == f"{recipe.key}.{START}") for name in names]) * MAX_STRENGTH / STRENGTH
    own, normal = SCORES.index(recipe.key), normals[recipe.key]
    aside = rows - np.outer(rows @ normal, normal)
    for weight in NEARNESS:
        near = weight * aside @ aside.T
        amounts = combine_evenly(responses, own, leak_weights(recipe), units, STEP, recipe.identity, near)
        mean_row = amounts @ rows
        if not recipe.near or mean_row @ normal >= recipe.near * np.linalg.norm(mean_row):
            break
    length = float(np.sqrt(amounts @ responses.gram @ amounts))
    change = max(adding_up * responses.change(amounts), 1e-6)
    return recipe.scale * amounts * min(recipe.effect, recipe.longest / length, SAFE_IDENTITY / change)


def build_edits(
    amounts: np.ndarray, atoms: Mapping[str, np.ndarray], boundaries: Mapping[str, Boundary], samples: int, faces: int
) -> list[EditDirection]:
    """The edits of `RECIPES`, in that order, shipped or not.

    Args:
        amounts: (E, K) of the atoms, see `plan`.
        atoms: offsets (16, 512) by name.
        boundaries: by attribute, for the provenance.
        samples: number of faces that they were fitted to.
        faces: number of faces that effects were measured on.
    """
    edits = []
    vectors = np.tensordot(amounts, np.stack(list(atoms.values())), 1).astype(np.float32)
    for recipe, vector in zip(RECIPES, vectors, strict=True):
        provenance = (
            f"InterFaceGAN boundary in W on bands of rows, {samples} generated faces, "
            f"{boundaries[recipe.key].accuracy:.3f} of the extremes of held-out halves on the right side; leaks and "
            f"changes of the person taken out by effects measured on {faces} faces"
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


def measure_folder(folder: Path, scorer: ScoringPool) -> tuple[np.ndarray, Measures]:
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


def score_samples(
    w: np.ndarray, render: Renderer | None, pool: ScoringPool | None, probe: np.ndarray, file: Path
) -> Measures:
    """Measures (N,) of generated faces w (N, 512), kept in a file with the glasses probe that they were taken with.

    Raises:
        GRAError: they are not kept, and `pool` is None.
    """
    if file.is_file():
        measures = dict(np.load(file))
        same = np.allclose(measures.pop(PROBE), probe, atol=PROBE_TOLERANCE)
        if same and np.allclose(measures.pop("w"), w, atol=1e-2):
            return measures
    if pool is None:
        raise GRAError(f"{file} does not hold the measures of these {len(w)} faces; fit without --kept first.")
    parts, waiting = [], deque()
    for start in range(0, len(w), 64):
        waiting.append(pool.submit(render(codes_of(w[start : start + 64]))))
        if len(waiting) > 4:
            parts.append(waiting.popleft()())
    parts += [wait() for wait in waiting]
    measures = {name: np.concatenate([part[name] for part in parts]).astype(np.float32) for name in parts[0]}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **measures, **{PROBE: probe, "w": w.astype(np.float16)})
    return measures


@dataclass(frozen=True)
class Group:
    """Faces that are measured together.

    Attributes:
        name: of the folder that keeps their effects.
        kind: 0 for generated faces, 1 for photos.
        describe: whether face descriptors are taken.
        faces: makes the faces, when they are needed.
    """

    name: str
    kind: int
    describe: bool
    faces: Callable[[], FaceSet]


def groups_of(
    generator: object, render: Renderer, photos: Path | None, count: int, seed: int, device: str | None
) -> tuple[list[Group], list[Group]]:
    """Groups of faces for atoms and for trials: `count` generated ones and as many photos, and one group more of each.

    Descriptors, which cost more than all scores together, are taken of the first group of each kind.
    """
    size = min(GROUP, count)
    atoms = sample_w(generator, count, seed + 1, FACE_TRUNCATION)
    trials = sample_w(generator, size, seed + 2, FACE_TRUNCATION)
    starts = range(0, count, size)

    def generated(w: np.ndarray) -> Callable[[], FaceSet]:
        return lambda: generated_faces(render, w)

    groups = [[Group(f"generated{n}", 0, n == 0, generated(atoms[i : i + size])) for n, i in enumerate(starts)]]
    trial = [Group("trial-generated", 0, True, generated(trials))]
    if photos is not None:
        files = photo_files(photos, count + size)
        files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
        sets = cache(lambda: list(photo_faces(files, size, device)))
        last = -(-len(files) // size) - 1
        groups.append([Group(f"photos{n}", 1, n == 0, lambda n=n: sets()[n]) for n in range(last)])
        trial.append(Group("trial-photos", 1, True, lambda: sets()[last]))
    return [group for pair in zip(*groups, strict=False) for group in pair], trial


def measure_group(
    group: Group,
    work: Path,
    offsets: Mapping[str, np.ndarray],
    factors: Sequence[float],
    pool: ScoringPool | None,
    until: float = np.inf,
) -> dict[str, Effect]:
    """Effects of offsets (16, 512) by name on a group of faces, kept in the folder `work` as soon as they are measured.

    Those are missing that were neither kept nor measured before `until`, or, without a pool, were not kept.
    """
    folder = work / group.name
    kept, codes = kept_effects(folder), folder / "codes.npy"
    same = {name for name in kept if name in offsets and np.allclose(kept[name].offset, offsets[name], atol=1e-2)}
    if pool is not None and monotonic() < until:
        faces = group.faces()
        known = np.load(codes) if codes.is_file() else np.zeros(0)
        if known.shape != faces.codes.shape or not np.allclose(known, faces.codes, atol=0.1):
            folder.mkdir(parents=True, exist_ok=True)
            np.save(codes, faces.codes.astype(np.float16))
            same = set()
        missing = {name: offset for name, offset in offsets.items() if name not in same}
        begun = monotonic()
        for name, effect in sweep(faces, pool, missing, factors, describe=group.describe, until=until):
            keep_effect(folder, name, effect)
            kept[name] = effect
            same.add(name)
        count = len(missing) * len(factors) * len(faces.codes)
        print(f"{group.name}: {count} pictures in {monotonic() - begun:.0f} s", flush=True)
    return {name: kept[name] for name in offsets if name in same}


def responses_of(
    groups: Sequence[tuple[Group, Mapping[str, Effect]]], atoms: Mapping[str, np.ndarray], spread: np.ndarray
) -> Responses:
    """Responses, in units of `spread` (S,), from the effects of all atoms on groups of faces."""
    slopes, descriptors, kinds = [], [], []
    for group, effects in groups:
        pairs = [effects[name].slopes() for name in atoms]
        slopes.append(np.stack([scored for scored, _ in pairs]) / spread)
        kinds += [group.kind] * slopes[-1].shape[1]
        if group.describe:
            descriptors.append(np.stack([described for _, described in pairs]))
    offsets = np.stack(list(atoms.values()))
    seen = np.concatenate(descriptors, 1) if descriptors else np.zeros((len(atoms), 0, 128))
    return Responses.measured(np.concatenate(slopes, 1), offsets, seen, np.array(kinds))


def as_measurements(effects: Mapping[str, Effect]) -> dict[str, check.Measurement]:
    """Trials as the check's measurements, by edit."""
    plain = effects[PLAIN]
    results = {}
    for key, effect in effects.items():
        if key != PLAIN:
            found = list(effect.scores)
            found.insert(check.STRENGTHS.index(0.0), plain.scores[0])
            ends = np.linalg.norm(effect.descriptors[[0, -1]] - plain.descriptors[0], axis=2)
            results[key] = check.Measurement(np.stack(found), ends, np.zeros_like(ends))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """`directions fit ...`, `directions search ...` and `directions check ...`."""
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gra_core directions", description=__doc__, formatter_class=verbatim)
    commands = parser.add_subparsers(dest="action", required=True)
    fit = commands.add_parser(
        "fit", help="fit the directions to generated faces", epilog=scores.__doc__, formatter_class=verbatim
    )
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    fit.add_argument("--nets", type=Path, metavar="DIR", help="folder of the scoring nets, see below")
    fit.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps the measured effects")
    fit.add_argument("--samples", type=int, default=0, metavar="N", help="faces to generate")
    fit.add_argument("--samples-dir", type=Path, action="append", default=[], metavar="DIR", help="faces made before")
    fit.add_argument("--photos", type=Path, metavar="DIR", help="aligned photos to measure effects on, too")
    fit.add_argument("--start", type=Path, default=DIRECTIONS_FILE, metavar="FILE", help="edits that are atoms too")
    fit.add_argument("--faces", type=int, default=16, metavar="N", help="faces of each kind to measure atoms on (16)")
    fit.add_argument("--minutes", type=float, default=np.inf, help="begin no further measurement of atoms after these")
    fit.add_argument("--kept", action="store_true", help="measure nothing, use what the work folder holds")
    fit.add_argument("--all", action="store_true", help="write also the edits that did not pass the check")
    fit.add_argument("--device", help="where to render: cpu, cuda, ... (a GPU if there is one)")
    fit.add_argument("--processes", type=int, default=0, metavar="N", help="score in N processes (in this one)")
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

    atoms = band_atoms(boundaries) | style_atoms(generator) | component_atoms(components(generator)[0])
    start = load_directions(args.start)
    atoms |= {f"{key}.{START}": STRENGTH / MAX_STRENGTH * edit.vector for key, edit in start.items()}
    names, offsets = list(atoms), np.stack(list(atoms.values()))
    groups, trial_groups = groups_of(generator, render, args.photos, args.faces, args.seed, args.device)
    found = [(group, measure_group(group, args.work, atoms, ATOM_FACTORS, pool, until)) for group in groups]
    found = [(group, effects) for group, effects in found if len(effects) == len(atoms)]
    if not found:
        raise GRAError(f"No group of faces in {args.work} was measured with all {len(atoms)} atoms.")
    responses = responses_of(found, atoms, spread)
    print(f"effects of {len(atoms)} atoms on {len(responses.kinds)} faces: {', '.join(g.name for g, _ in found)}")

    rows, normals = offsets.mean(1), {key: boundary.normal for key, boundary in boundaries.items()}
    first = plan(names, responses, rows, normals)
    edits = build_edits(first, atoms, boundaries, len(w), len(responses.kinds))
    edits += style_edits(generator, STYLE_RECIPES) + _component_candidates(names, responses, atoms)
    trials, runs = _try(edits, first, names, offsets, trial_groups, args.work, pool)
    adding_up = {}
    if runs:
        measured = {recipe.key for recipe in RECIPES} & set.intersection(*(set(run) for run in runs.values()))
        kept = [key for key in trials if key in measured]
        tried = STRENGTH / MAX_STRENGTH * np.stack([trials[key] for key in kept])
        low, high = (check.STRENGTHS.index(s) for s in (-STRENGTH, STRENGTH))
        slopes = [[(run[key].scores[high] - run[key].scores[low]) / 2 for run in runs.values()] for key in kept]
        responses = responses.updated(tried, np.stack([np.concatenate(parts) for parts in slopes]) / spread)
        for key in kept:
            far = max(run[key].identity.mean(1).max() for run in runs.values())
            adding_up[key] = far / max(responses.change(trials[key]), 1e-6)
        by_key = {edit.key: edit for edit in edits}
        print(check.report(by_key, {f"trial, {name}": run for name, run in runs.items()}, spread), flush=True)
    amounts = plan(names, responses, rows, normals, adding_up)
    _print_plan(names, amounts, responses, rows, normals, adding_up)

    final = build_edits(amounts, atoms, boundaries, len(w), len(responses.kinds))
    old = {recipe.key for recipe in RECIPES if recipe.kept}
    final = [replace(edit, provenance=start[edit.key].provenance) if edit.key in old else edit for edit in final]
    shipped = {recipe.key for recipe in RECIPES if recipe.shipped}
    final = [edit for edit in final if edit.key in shipped or args.all]
    final += style_edits(generator, STYLE_RECIPES) + component_edits(components(generator)[0], COMPONENT_RECIPES)
    final += _component_candidates(names, responses, atoms) if args.all else []
    save_directions(args.out, final, {PROBE: probe, check.SPREAD: spread.astype(np.float32)})
    record_checksum(args.out)
    return 0


def _component_candidates(
    names: Sequence[str], responses: Responses, atoms: Mapping[str, np.ndarray]
) -> list[EditDirection]:
    """Edits of the principal components that move one score alone, to be looked at and named, see `ganspace`."""
    units, columns = np.full(len(SCORES), PLAIN_UNIT), np.zeros(len(SCORES), bool)
    for recipe in RECIPES:
        if recipe.shipped:
            units[SCORES.index(recipe.key)] = recipe.effect * STRENGTH / MAX_STRENGTH
            columns[SCORES.index(recipe.key)] = True
    numbers = [k for k, name in enumerate(names) if name.startswith("pca")]
    edits = []
    for name, own, leak in clean_components({names[k]: responses.mean[k] for k in numbers}, units, columns, 0.5):
        k = names.index(name)
        effect = abs(float(responses.mean[k, own]))
        change = max(ADDING_UP * float(np.sqrt(responses.identity[k, k])), 1e-6)
        amount = min(2.0 / max(effect, 1e-6), 14.0 / float(np.sqrt(responses.gram[k, k])), SAFE_IDENTITY / change)
        print(f"{name}: moves {SCORES[own]} by {amount * effect:.2f} SD at 100, largest leak {leak:.0%}")
        vector = (amount * np.sign(responses.mean[k, own]) * atoms[name]).astype(np.float32)
        texts = (name.replace(".", "_"), name, "", -MAX_STRENGTH, MAX_STRENGTH, vector, "Components")
        edits.append(EditDirection(*texts, kind="ganspace", score=SCORES[own]))
    return edits


def _try(
    edits: Sequence[EditDirection],
    first: np.ndarray,
    names: Sequence[str],
    offsets: np.ndarray,
    groups: Sequence[Group],
    work: Path,
    pool: ScoringPool | None,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, check.Measurement]]]:
    """Try edits on the trial groups, or, without a pool, take the trials that were kept.

    Returns:
        By edit, the amounts (K,) of the atoms that the edit that was tried was made of, of those made of atoms; and by
        group, the measurements of all edits.
    """
    record = work / "trials.json"
    if pool is not None:
        planned = {recipe.key: row.tolist() for recipe, row in zip(RECIPES, first, strict=True)}
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"atoms": list(names), "amounts": planned}))
        wanted = {PLAIN: np.zeros((NUM_STYLES, STYLE_DIM), np.float32)} | {edit.key: edit.vector for edit in edits}
        found = {group.name: measure_group(group, work, wanted, TRIAL_FACTORS, pool) for group in groups}
    else:
        found = {group.name: kept_effects(work / group.name) for group in groups}
    kept = json.loads(record.read_text()) if record.is_file() else {"atoms": [], "amounts": {}}
    amounts = {}
    for key, row in kept["amounts"].items():
        made = dict(zip(kept["atoms"], row, strict=True))
        values = np.array([made.get(name, 0.0) for name in names])
        vector = np.tensordot(values, offsets, 1)
        if all(key in effects and np.allclose(effects[key].offset, vector, atol=3e-2) for effects in found.values()):
            amounts[key] = values
    runs = {name: as_measurements(effects) for name, effects in found.items() if PLAIN in effects}
    known = {edit.key for edit in edits}
    return amounts, {name: {key: m for key, m in run.items() if key in known} for name, run in runs.items()}


def _print_plan(
    names: Sequence[str],
    amounts: np.ndarray,
    responses: Responses,
    rows: np.ndarray,
    normals: Mapping[str, np.ndarray],
    adding_up: Mapping[str, float],
) -> None:
    """What the edits are expected to do, and the atoms that they are mostly made of."""
    print(f"{'edit':<14}{'own at 60':>10}{'leak':>7}{'':>14}{'identity':>10}{'length':>8}{'cosine':>8}  mostly")
    own = {
        r.key: abs(a @ responses.mean[:, SCORES.index(r.key)])
        for r, a in zip(RECIPES, amounts, strict=True)
        if r.shipped
    }
    for recipe, row in zip(RECIPES, amounts, strict=True):
        moved = responses.largest(row)
        shares = {key: moved[SCORES.index(key)] / max(value, 1e-6) for key, value in own.items() if key != recipe.key}
        worst = max(shares, key=shares.get)
        mean_row = row @ rows
        cosine = mean_row @ normals[recipe.key] / max(np.linalg.norm(mean_row), 1e-9)
        change = adding_up.get(recipe.key, ADDING_UP) * responses.change(row)
        length = float(np.sqrt(row @ responses.gram @ row))
        size = np.abs(row) * np.sqrt(np.diag(responses.gram))
        most = ", ".join(f"{row[k]:+.2f} {names[k]}" for k in np.argsort(-size)[:4])
        mine = row @ responses.mean[:, SCORES.index(recipe.key)] * STRENGTH / MAX_STRENGTH
        print(
            f"{recipe.key:<14}{mine:>10.2f}{shares[worst]:>7.0%} {worst:<13}{change:>10.2f}{length:>8.1f}{cosine:>8.2f}  {most}"
        )


if __name__ == "__main__":
    sys.exit(main())
