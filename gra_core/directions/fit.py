"""Fits the edit directions, and checks a directions file.

    python -m gra_core directions fit --nets DIR --samples 6000 --out checkpoints/directions.safetensors
    python -m gra_core directions check [FILE] [--nets DIR]

The method is InterFaceGAN (Shen et al., CVPR 2020, https://arxiv.org/abs/1907.10786): sample w, synthesise, score,
fit a linear boundary in W for each attribute, take its unit normal, and make it orthogonal to the normals of the other
attributes (the paper's conditional manipulation). Two departures: the boundary is fitted by ridge regression on
the standardised scores rather than by an SVM on the extremes, which uses every sample, and each edit moves only those
rows of the W+ code that were measured to carry it.

A folder of samples holds `w.npy`, float32 (N, 512), and the pictures `00000.jpg`, `00001.jpg`, ... of 256 px. Their
measures are kept in `measures.npz` beside them, as long as the glasses probe stays the same. With `glasses.csv`
(columns file,glasses: 0 or 1) in such a folder the glasses probe is trained anew; otherwise it is taken from the
shipped directions file, in which it is kept.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from gra_core.checkpoints import record_checksum
from gra_core.constants import CHECKPOINT_DIR, MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions import scores
from gra_core.directions.registry import DIRECTIONS_FILE, EditDirection, edit_offset, load_directions, save_directions
from gra_core.directions.scores import (
    MEASURES,
    SCORE_SIZE,
    SCORES,
    FaceScorer,
    attribute_scores,
    glasses_features,
    require,
)
from gra_core.errors import CheckpointError, GRAError
from gra_core.models.generator import Generator, broadcast_w

GENERATOR_FILE = CHECKPOINT_DIR / "generator.safetensors"
PROBE = "glasses_probe"
"""Tensor of the directions file that holds the glasses probe, (F + 1,)."""

TRUNCATION = 0.8
"""Samples are mean_w + 0.8 (w - mean_w): fewer broken pictures to score, with every attribute still present."""

CHECK_STRENGTH = 60.0
SUNGLASSES_TINT = 0.45
CLIP = {"yaw": (-35.0, 35.0), "glasses": (-4.0, 4.0), "tint": (-0.5, 1.0)}
"""Range in which a measure says more than that the attribute is there; beyond it, it is cut off."""

PROBE_C = 3.0
"""Inverse regularisation of the glasses probe, by five-fold cross-validation on 1,400 labelled pictures."""


PROBE_TOLERANCE = 0.01
"""Training on the same labels again changes no weight of the probe by more than this (they are about 0.1)."""


@dataclass(frozen=True)
class Recipe:
    """How one edit is made from the boundaries.

    Attributes:
        rows: first and last row of the W+ code that the edit moves.
        reach: distance in W that +100 moves each of these rows.
        ridge: weight of the penalty, per sample, on w of unit variance.
        against: attributes whose boundaries the edit must run along.
    """

    key: str
    label: str
    hint: str
    group: str
    rows: tuple[int, int]
    reach: float
    ridge: float
    against: tuple[str, ...]
    caveat: str = ""


RECIPES = (
    Recipe(
        "smile",
        "Smile",
        "+ smiles more, - looks more serious.",
        "Expression",
        rows=(2, 5),
        reach=3.0,
        ridge=1.0,
        against=("age", "yaw", "glasses", "gender"),
        caveat="A strong smile also narrows the eyes and lifts the cheeks.",
    ),
    Recipe(
        "age",
        "Age",
        "+ older, - younger.",
        "Face",
        rows=(0, 8),
        reach=4.8,
        ridge=3.0,
        against=("smile", "yaw", "glasses", "gender"),
        caveat="Hair turns grey with age; below -80 most faces become small children.",
    ),
    Recipe(
        "yaw",
        "Turn head",
        "+ turns the head to the right of the picture, - to the left.",
        "Face",
        rows=(0, 6),
        reach=3.8,
        ridge=3.0,
        against=("smile", "age", "glasses", "gender"),
        caveat="Hair and background move along with the head.",
    ),
    Recipe(
        "glasses",
        "Glasses",
        "+ puts glasses on, - takes glasses off.",
        "Accessories",
        rows=(0, 5),
        reach=6.5,
        ridge=3.0,
        against=("smile", "age", "yaw", "gender", "tint"),
        caveat="- is for people who wear glasses; without any, it makes the eyes smaller.",
    ),
    Recipe(
        "gender",
        "Masculine or feminine",
        "+ more masculine, - more feminine.",
        "Face",
        rows=(0, 8),
        reach=4.6,
        ridge=3.0,
        against=("smile", "age", "yaw", "glasses"),
        caveat="Hair length and facial hair change along with it.",
    ),
)
TINT_RIDGE = 3.0


@dataclass(frozen=True)
class Boundary:
    """A linear boundary in W.

    Attributes:
        normal: (512,) unit vector towards more of the attribute.
        accuracy: share of held-out extremes, the lowest and the highest tenth, on the right side, mean of two halves.
        agreement: cosine between the normals of the two halves.
    """

    normal: np.ndarray
    accuracy: float
    agreement: float


def targets(measures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each boundary is fitted to: the mean of the attribute's standardised measures, (N,), standardised."""
    result = {}
    for name, parts in MEASURES.items():
        columns = [np.clip(measures[p], *CLIP[p]) if p in CLIP else measures[p] for p in parts]
        result[name] = _standard(sum(_standard(c) for c in columns))
    return result


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / max(float(x.std()), 1e-12)


def ridge_normal(w: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """Unit normal (512,) of the ridge regression of target (N,) on w (N, 512), penalty per sample and unit variance."""
    x = w - w.mean(0)
    x = x / x.std()
    gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1], dtype=x.dtype)
    return _unit(np.linalg.solve(gram, x.T @ (target - target.mean()) / len(x)))


def fit_boundary(w: np.ndarray, target: np.ndarray, penalty: float, seed: int = 0) -> Boundary:
    """Boundary of a score over w (N, 512), with its quality measured on random halves."""
    halves = np.array_split(np.random.default_rng(seed).permutation(len(w)), 2)
    normals = [ridge_normal(w[half], target[half], penalty) for half in halves]
    accuracy = np.mean(
        [_accuracy(w[half] @ n, target[half]) for n, half in zip(normals, reversed(halves), strict=True)]
    )
    return Boundary(ridge_normal(w, target, penalty), float(accuracy), float(normals[0] @ normals[1]))


def _accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """Share of the lowest and the highest tenth by target that the boundary tells apart."""
    order = np.argsort(target)
    tenth = max(len(order) // 10, 1)
    low, high = prediction[order[:tenth]], prediction[order[-tenth:]]
    middle = np.median(np.concatenate([low, high]))
    return float((np.mean(low <= middle) + np.mean(high > middle)) / 2)


def condition(normal: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Unit vector nearest to `normal` (512,) that is orthogonal to all `others` (InterFaceGAN, section 3.2)."""
    if not others:
        return _unit(normal)
    basis, _ = np.linalg.qr(np.stack(others, 1))
    return _unit(normal - basis @ (basis.T @ normal))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def build_edits(w: np.ndarray, measures: Mapping[str, np.ndarray]) -> tuple[list[EditDirection], dict[str, Boundary]]:
    """The edits of `RECIPES`, and the boundaries they come from, for samples w (N, 512) and their measures (N,)."""
    target = targets(measures)
    clear = measures["tint"] < SUNGLASSES_TINT
    boundaries = {"tint": fit_boundary(w, target["tint"], TINT_RIDGE)}
    for recipe in RECIPES:
        keep = clear if recipe.key == "glasses" else slice(None)
        boundaries[recipe.key] = fit_boundary(w[keep], target[recipe.key][keep], recipe.ridge)
    edits = []
    for recipe in RECIPES:
        direction = condition(boundaries[recipe.key].normal, [boundaries[name].normal for name in recipe.against])
        vector = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
        vector[recipe.rows[0] : recipe.rows[1] + 1] = recipe.reach * direction
        provenance = (
            f"InterFaceGAN boundary in W, {len(w)} generated faces, rows {recipe.rows[0]} to {recipe.rows[1]}, "
            f"held-out accuracy {boundaries[recipe.key].accuracy:.3f}, conditioned on {', '.join(recipe.against)}"
        )
        edits.append(
            EditDirection(
                recipe.key,
                recipe.label,
                recipe.hint,
                -MAX_STRENGTH,
                MAX_STRENGTH,
                vector,
                recipe.group,
                recipe.caveat,
                provenance,
            )
        )
    return edits, boundaries


def load_generator(path: Path = GENERATOR_FILE) -> Generator:
    """The generator with its weights, for inference on the CPU or, where there is one, the GPU.

    Raises:
        CheckpointError: the file is missing or does not fit.
    """
    generator = Generator()
    try:
        generator.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"The generator {path} cannot be loaded: {' '.join(str(error).split())}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return generator.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def sample_w(generator: Generator, count: int, seed: int, truncation: float = TRUNCATION) -> np.ndarray:
    """Random codes w (count, 512), float32; truncation 0 is the average face, 1 the whole variety."""
    z = torch.randn(count, STYLE_DIM, generator=torch.Generator().manual_seed(seed))
    mean = generator.mean_w
    return (mean + truncation * (generator.mapping(z.to(mean.device)) - mean)).cpu().numpy()


@torch.inference_mode()
def render(generator: Generator, codes: np.ndarray) -> np.ndarray:
    """Pictures (N, 256, 256, 3) uint8 of W+ codes (N, 16, 512)."""
    pictures = []
    for part in torch.from_numpy(codes).split(4):
        x = generator(part.to(generator.mean_w)).unflatten(3, (SCORE_SIZE, -1)).unflatten(2, (SCORE_SIZE, -1))
        x = ((x.mean((3, 5)) + 1) * 127.5).round().clamp(0, 255).byte()
        pictures.append(x.permute(0, 2, 3, 1).contiguous().cpu().numpy())
    return np.concatenate(pictures)


def leaks(
    generator: Generator,
    scorer: Callable[[np.ndarray], dict[str, np.ndarray]],
    edits: Mapping[str, EditDirection],
    faces: np.ndarray,
    strength: float = CHECK_STRENGTH,
) -> np.ndarray:
    """What each edit does to each score: (edits, 5), half the mean difference between +strength and -strength.

    Args:
        faces: (N, 512) codes w of the faces to measure on.
    """
    codes = broadcast_w(torch.from_numpy(faces)).numpy()
    rows = []
    for key in edits:
        offset = edit_offset(edits, {key: strength})
        after, before = (
            attribute_scores(scorer(render(generator, codes + sign * offset))).mean(0) for sign in (1.0, -1.0)
        )
        rows.append((after - before) / 2)
    return np.stack(rows)


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


def main(argv: Sequence[str] | None = None) -> int:
    """`directions fit ...` and `directions check ...`."""
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gra_core directions", description=__doc__, formatter_class=verbatim)
    commands = parser.add_subparsers(dest="action", required=True)
    fit = commands.add_parser(
        "fit", help="fit the directions to generated faces", epilog=scores.__doc__, formatter_class=verbatim
    )
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    fit.add_argument("--nets", type=Path, required=True, metavar="DIR", help="folder of the scoring nets, see below")
    fit.add_argument("--samples", type=int, default=0, metavar="N", help="faces to generate")
    fit.add_argument("--samples-dir", type=Path, action="append", default=[], metavar="DIR", help="faces made before")
    fit.add_argument("--seed", type=int, default=0)
    check = commands.add_parser(
        "check", help="check a directions file", epilog=scores.__doc__, formatter_class=verbatim
    )
    check.add_argument("file", type=Path, nargs="?", default=DIRECTIONS_FILE)
    check.add_argument("--nets", type=Path, metavar="DIR", help="also measure what each edit does")
    check.add_argument("--faces", type=int, default=20, metavar="N", help="faces to measure on")
    check.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args(argv)
    return _fit(args) if args.action == "fit" else _check(args)


def _fit(args: argparse.Namespace) -> int:
    if args.samples <= 0 and not args.samples_dir:
        raise GRAError("Give --samples N, --samples-dir DIR, or both.")
    probe = train_probe(args.samples_dir)
    probe = load_probe() if probe is None else probe
    scorer = FaceScorer(args.nets, probe)
    parts = [measure_folder(folder, scorer) for folder in args.samples_dir]
    if args.samples > 0:
        generator = load_generator()
        w = sample_w(generator, args.samples, args.seed)
        codes = broadcast_w(torch.from_numpy(w)).numpy()
        scored = [scorer(render(generator, codes[i : i + 64])) for i in range(0, len(w), 64)]
        parts.append((w, {name: np.concatenate([s[name] for s in scored]) for name in scored[0]}))
    w = np.concatenate([part[0] for part in parts])
    measures = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    edits, boundaries = build_edits(w, measures)
    print(f"{len(w)} faces\n{'attribute':<10}{'held-out accuracy':>20}{'cosine of halves':>20}")
    for name, boundary in boundaries.items():
        print(f"{name:<10}{boundary.accuracy:>20.3f}{boundary.agreement:>20.3f}")
    save_directions(args.out, edits, {PROBE: probe})
    record_checksum(args.out)
    return 0


def _check(args: argparse.Namespace) -> int:
    edits = load_directions(args.file)
    print(f"{'edit':<10}{'range':>12}{'rows':>8}{'norm':>8}  cosine with " + ", ".join(edits))
    flat = np.stack([edit.vector.ravel() for edit in edits.values()])
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    for edit, cosines in zip(edits.values(), flat @ flat.T, strict=True):
        rows = np.flatnonzero(np.abs(edit.vector).max(1))
        span, extent = f"{edit.minimum:g}..{edit.maximum:g}", f"{rows[0]}-{rows[-1]}"
        norm = np.linalg.norm(edit.vector)
        print(f"{edit.key:<10}{span:>12}{extent:>8}{norm:>8.2f}  " + " ".join(f"{c:6.2f}" for c in cosines))
    if args.nets is not None:
        generator = load_generator()
        scorer = FaceScorer(args.nets, load_probe(args.file))
        table = leaks(generator, scorer, edits, sample_w(generator, args.faces, args.seed))
        print(f"\nhalf the difference of scores between +60 and -60, mean of {args.faces} faces")
        print(f"{'edit':<10}" + "".join(f"{name:>10}" for name in SCORES))
        for key, row in zip(edits, table, strict=True):
            print(f"{key:<10}" + "".join(f"{value:>10.2f}" for value in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
