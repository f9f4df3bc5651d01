"""Measures what the shipped edits do: effect along the slider, leaks, identity, artefacts, pictures.

python -m gra_core directions check [FILE]
python -m gra_core directions check --nets DIR --faces 100 --real DIR --out docs/directions.md --pictures docs/edits
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from safetensors import safe_open

from gra_core.directions.registry import DIRECTIONS_FILE, EditDirection, edit_offset, load_directions
from gra_core.directions.response import Scorer, codes_of
from gra_core.directions.sampling import Renderer, load_generator, sample_w
from gra_core.directions.scores import SCORE_SIZE, SCORED_BY, SCORES, FaceScorer, attribute_scores
from gra_core.errors import CheckpointError, GRAError

SPREAD = "score_spread"
"""Tensor of the directions file: standard deviation of each score over generated faces, (S,)."""

STRENGTHS = (-100.0, -60.0, 0.0, 60.0, 100.0)
"""Slider values that are measured."""

MODERATE = 60.0
"""Slider value at which leaks are taken."""

PICTURED = (-100.0, -50.0, 0.0, 50.0, 100.0)
"""Slider values of the picture strips."""

FACE_TRUNCATION = 0.7
STRIP_SIZE = 144
"""Side of one picture of a strip, in pixels."""

MAX_LEAK, MIN_MONOTONE, MAX_IDENTITY = 0.35, 0.90, 0.50
"""What an edit has to keep to, see `passes`."""

NOISE = 0.1
"""Share of an edit's mean effect from end to end by which scores may fall without counting as falling: they are noisy,
and those of nets saturate."""

MARKS = ("<!-- measured by `directions check`: start -->", "<!-- measured: end -->")
"""Lines of the report between which the measured part stands."""

Draw = Callable[[int, Mapping[str, float]], np.ndarray]
"""Picture (256, 256, 3) uint8 of a face, by number, after an edit."""


@dataclass(frozen=True)
class Measurement:
    """One edit on N faces.

    Attributes:
        scores: (5, N, S) at `STRENGTHS`; a one-sided edit repeats 0 for values below.
        identity: (2, N) distance of the person at the slider's two ends from the unedited picture.
        roughness: (2, N) logarithm of the picture's fine contrast at the two ends over the unedited one's.
    """

    scores: np.ndarray
    identity: np.ndarray
    roughness: np.ndarray


def fine_contrast(picture: np.ndarray) -> float:
    """Mean absolute second difference of the luminance of a picture (H, W, 3): grows with noise and ringing."""
    gray = picture.astype(np.float32).mean(2)
    return float(
        np.mean(np.abs(4 * gray[1:-1, 1:-1] - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]))
    )


def measure_edit(
    edit: EditDirection, draw: Draw, scorer: Scorer, originals: np.ndarray, known: Sequence[np.ndarray]
) -> Measurement:
    """Measure one edit on all faces: their unedited pictures (N, 256, 256, 3) and those pictures' face descriptors."""
    from gra_core.evaluation.identity import face_descriptor, identity_distance  # noqa: PLC0415

    faces = range(len(originals))
    pictures = {0.0: originals}
    for strength in STRENGTHS:
        if strength and strength >= edit.minimum:
            pictures[strength] = np.stack([draw(i, {edit.key: strength}) for i in faces])
    measured = {strength: attribute_scores(scorer(p)) for strength, p in pictures.items()}
    ends = [pictures.get(s, originals) for s in (STRENGTHS[0], STRENGTHS[-1])]
    identity = [[identity_distance(known[i], face_descriptor(Image.fromarray(end[i]))) for i in faces] for end in ends]
    plain = [fine_contrast(p) for p in originals]
    roughness = [[np.log((fine_contrast(end[i]) + 0.1) / (plain[i] + 0.1)) for i in faces] for end in ends]
    scores = np.stack([measured.get(s, measured[0.0]) for s in STRENGTHS])
    return Measurement(scores, np.array(identity), np.array(roughness))


def measure_edits(
    edits: Mapping[str, EditDirection], draw: Draw, scorer: Scorer, count: int, work: Path | None = None
) -> dict[str, Measurement]:
    """Measurements of all edits on `count` faces by key; each is kept in the folder `work` if there is one."""
    from gra_core.evaluation.identity import face_descriptor  # noqa: PLC0415

    originals = np.stack([draw(i, {}) for i in range(count)])
    known = [face_descriptor(Image.fromarray(p)) for p in originals]
    results = {}
    for key, edit in edits.items():
        file = work / f"{key}.npz" if work else None
        if file and file.is_file():
            results[key] = Measurement(**np.load(file))
            continue
        results[key] = measure_edit(edit, draw, scorer, originals, known)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, **vars(results[key]))
        print(f"measured {key}", flush=True)
    return results


def effects(results: Mapping[str, Measurement]) -> np.ndarray:
    """What each edit does at +-60 to each score: (E, S), mean of half the difference, for one-sided edits the whole."""
    low, middle, high = (STRENGTHS.index(s) for s in (-MODERATE, 0.0, MODERATE))
    rows = []
    for result in results.values():
        one_sided = np.array_equal(result.scores[low], result.scores[middle])
        rows.append((result.scores[high] - result.scores[low]).mean(0) / (1 if one_sided else 2))
    return np.stack(rows)


def leak_matrix(results: Mapping[str, Measurement]) -> np.ndarray:
    """Leaks (E, E): what each edit (row) does to each edit's score, over what that edit's own slider does to it."""
    columns = [SCORES.index(key) for key in results]
    table = effects(results)[:, columns]
    return table / np.diag(table)


def monotone_share(key: str, result: Measurement) -> float:
    """Share of faces whose own score falls from no measured slider value to the next, by more than `NOISE`."""
    own = result.scores[:, :, SCORES.index(key)]
    noise = NOISE * abs(own[-1].mean() - own[0].mean())
    return float((np.diff(own, axis=0) >= -noise).all(0).mean())


def _draw_generated(edits: Mapping[str, EditDirection], render: Renderer, faces: np.ndarray) -> Draw:
    codes = codes_of(faces)
    return lambda i, strengths: render((codes[i] + edit_offset(edits, strengths, codes[i]))[None])[0]


def _draw_real(folder: Path, count: int, edits: Mapping[str, EditDirection]) -> tuple[Draw, int]:
    """Draws edits of aligned photos by the whole editor; also how many photos there are."""
    from gra_core.editor import PortraitEditor  # noqa: PLC0415
    from gra_core.images import load_image  # noqa: PLC0415

    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    if not files:
        raise GRAError(f"{folder} holds no pictures.")
    files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int))]
    editor = PortraitEditor.from_pretrained()
    editor.edits = dict(edits)
    inversions = [editor.invert(load_image(file)) for file in files]

    def draw(i: int, strengths: Mapping[str, float]) -> np.ndarray:
        picture = editor.edit(inversions[i], strengths)
        return np.ascontiguousarray(picture.reduce(picture.width // SCORE_SIZE))

    return draw, len(files)


def report(
    edits: Mapping[str, EditDirection], runs: Mapping[str, Mapping[str, Measurement]], spread: np.ndarray
) -> str:
    """The measured part of the report, Markdown, for measurements by the name of the set of faces."""
    parts = []
    for title, results in runs.items():
        count = next(iter(results.values())).scores.shape[1]
        leaks = leak_matrix(results)
        table = effects(results)
        keys = list(results)
        parts += [f"### {title[0].upper()}{title[1:]}, {count} faces", ""]
        parts += [
            "| edit | rows | own score at ±60 (SD) | monotone | largest leak | identity at -100 / +100 | roughness |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for e, key in enumerate(keys):
            result, column = results[key], SCORES.index(key)
            others = np.abs(leaks[e]) * (np.arange(len(keys)) != e)
            worst = int(others.argmax())
            low, high = result.identity.mean(1)
            rough = np.exp(result.roughness.mean(1))
            first, last = edits[key].layers
            parts.append(
                f"| {edits[key].label} (`{key}`) | {first}-{last} | {table[e, column] / spread[column]:.2f} "
                f"| {monotone_share(key, result):.0%} | {others[worst]:.0%} {keys[worst]} "
                f"| {low:.2f} / {high:.2f} | {rough[0]:.2f} / {rough[1]:.2f} |"
            )
        parts += ["", f"Leak matrix, {title}, in percent of what the column's own slider does to its score at ±60:", ""]
        parts += ["| edit | " + " | ".join(keys) + " |", "| --- |" + " --- |" * len(keys)]
        for key, row in zip(keys, leaks, strict=True):
            parts.append(f"| {key} | " + " | ".join(f"{100 * value:.0f}" for value in row) + " |")
        parts.append("")
    return "\n".join(parts)


def write_report(path: Path, text: str) -> None:
    """Put the measured part between `MARKS` of a report, or write a new one."""
    start, end = MARKS
    block = f"{start}\n\n{text}\n{end}"
    old = path.read_text(encoding="utf-8") if path.is_file() else "# Edit directions\n\n" + block + "\n"
    new = re.sub(re.escape(start) + r".*?" + re.escape(end), lambda _: block, old, flags=re.DOTALL)
    path.write_text(new if start in old else f"{old.rstrip()}\n\n{block}\n", encoding="utf-8")


def write_strips(folder: Path, edits: Mapping[str, EditDirection], draw: Draw, faces: Sequence[int]) -> None:
    """One sheet a group, `GROUP.webp`: a row for each edit and face, at the slider values `PICTURED`."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[EditDirection]] = {}
    for edit in edits.values():
        groups.setdefault(edit.group, []).append(edit)
    for group, members in groups.items():
        rows = [(edit, face) for edit in members for face in faces]
        sheet = Image.new("RGB", (STRIP_SIZE * len(PICTURED), (STRIP_SIZE + 0) * len(rows)), "white")
        for y, (edit, face) in enumerate(rows):
            for x, strength in enumerate(PICTURED):
                if strength and strength < edit.minimum:
                    continue
                picture = Image.fromarray(draw(face, {edit.key: strength} if strength else {}))
                sheet.paste(
                    picture.resize((STRIP_SIZE, STRIP_SIZE), Image.Resampling.LANCZOS), (x * STRIP_SIZE, y * STRIP_SIZE)
                )
            ImageDraw.Draw(sheet).text(
                (4, y * STRIP_SIZE + 2), edit.label, fill="white", stroke_width=2, stroke_fill="black"
            )
        sheet.save(folder / f"{re.sub(r'[^a-z]+', '-', group.lower())}.webp", quality=80, method=6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `directions check`."""
    parser.add_argument("file", type=Path, nargs="?", default=DIRECTIONS_FILE)
    parser.add_argument("--nets", type=Path, metavar="DIR", help="also measure what each edit does, see below")
    parser.add_argument("--faces", type=int, default=20, metavar="N", help="generated faces to measure on (20)")
    parser.add_argument("--real", type=Path, metavar="DIR", help="also measure the whole editor on aligned photos")
    parser.add_argument("--real-faces", type=int, default=10, metavar="N", help="photos to measure on (10)")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="edits to measure (all)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder that keeps finished measurements")
    parser.add_argument("--out", type=Path, metavar="FILE", help="report, .md: its measured part is replaced")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="folder for the strips, one sheet a group")
    parser.add_argument("--compile", action="store_true", help="compile the generator first")
    parser.add_argument("--seed", type=int, default=1000)


def run(args: argparse.Namespace) -> int:
    """`directions check`."""
    edits = load_directions(args.file)
    print_vectors(edits)
    if args.nets is None and args.pictures is None:
        return 0
    generator = load_generator()
    count = max(args.faces, 2)
    faces = sample_w(generator, count, args.seed, FACE_TRUNCATION)
    draw = _draw_generated(edits, Renderer(generator, compiled=args.compile), faces)
    chosen = {key: edits[key] for key in args.only or edits if key in SCORED_BY and key in edits}
    if args.nets is not None:
        scorer = FaceScorer(args.nets, _tensor(args.file, "glasses_probe"))
        runs = {"generated": measure_edits(chosen, draw, scorer, count, args.work and args.work / "generated")}
        if args.real is not None:
            draw_real, found = _draw_real(args.real, args.real_faces, edits)
            work = args.work and args.work / "real"
            runs["held-out photos"] = measure_edits(chosen, draw_real, scorer, found, work)
        text = report(edits, runs, _tensor(args.file, SPREAD))
        print(text)
        if args.out is not None:
            write_report(args.out, text)
    if args.pictures is not None:
        write_strips(args.pictures, edits, draw, (0, 1))
    return 0


def _tensor(path: Path, name: str) -> np.ndarray:
    with safe_open(path, framework="numpy") as file:
        if name not in set(file.keys()):
            raise CheckpointError(f"{path} holds no {name}; fit the directions anew.")
        return file.get_tensor(name)


def print_vectors(edits: Mapping[str, EditDirection]) -> None:
    """Range, rows, length and the nearest other edit of each."""
    flat = np.stack([edit.vector.ravel() for edit in edits.values()])
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = flat @ flat.T - 2 * np.eye(len(flat))
    keys = list(edits)
    print(f"{'edit':<14}{'range':>12}{'rows':>8}{'length':>8}  most like")
    for edit, row in zip(edits.values(), cosines, strict=True):
        span, extent = f"{edit.minimum:g}..{edit.maximum:g}", f"{edit.layers[0]}-{edit.layers[1]}"
        nearest = f"{keys[int(row.argmax())]} {row.max():.2f}" if len(keys) > 1 else ""
        print(f"{edit.key:<14}{span:>12}{extent:>8}{np.linalg.norm(edit.vector):>8.2f}  {nearest}")
