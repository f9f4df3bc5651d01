"""Measures what the shipped edits do: effect along the slider, entanglements, identity, artefacts, pictures.

python -m gra_core directions check [FILE]
python -m gra_core directions check --nets DIR --faces 100 --real DIR --out docs/edits.md --pictures docs/edits

On a machine with a GPU and many cores, `--device cuda --processes 16` renders there and scores in that many processes.
"""

import argparse
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from safetensors import safe_open

from gra_core.directions.registry import DIRECTIONS_FILE, GLASSES_PROBE, EditDirection, edit_offset, load_directions
from gra_core.errors import CheckpointError, GRAError
from gra_core.lab.directions.faces import FaceSet, generated_faces, photo_faces, photo_files
from gra_core.lab.directions.sampling import Renderer, load_generator, sample_w
from gra_core.lab.directions.scores import SCORED_BY, SCORES, attribute_scores
from gra_core.lab.directions.workers import DESCRIPTOR, Pending, ScoringPool, add_machine_arguments

SPREAD = "score_spread"
"""Tensor of the directions file: standard deviation of each score over generated faces, (S,)."""

STRENGTHS = (-100.0, -60.0, 0.0, 60.0, 100.0)
"""Slider values that are measured."""

MODERATE = 60.0
"""Slider value at which entanglements are taken."""

PICTURED = (-100.0, -50.0, 0.0, 50.0, 100.0)
"""Slider values of the picture strips."""

PICTURED_FACES = 2
"""Generated faces that the strips show."""

FACE_TRUNCATION = 0.7
STRIP_SIZE = 144
"""Side of one picture of a strip, in pixels."""

MAX_ENTANGLEMENT, MIN_MONOTONE, MAX_IDENTITY = 0.35, 0.90, 0.50
"""What an edit has to keep to, see `passes`."""

NOISE = 0.1
"""Share of an edit's mean effect from end to end by which scores may fall without counting as falling: they are noisy,
and those of nets saturate."""

MARKS = ("<!-- measured by `directions check`: start -->", "<!-- measured: end -->")
"""Lines of the report between which the measured part stands."""

IN_FLIGHT = 3
"""Edits whose pictures may wait for their scores while the next edit is rendered."""

Draw = Callable[[Mapping[str, float]], np.ndarray]
"""Pictures (N, 256, 256, 3) uint8 of all faces of a set after an edit."""


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


def measure_edits(
    edits: Mapping[str, EditDirection], draw: Draw, pool: ScoringPool, work: Path | None = None
) -> dict[str, Measurement]:
    """Measurements of all edits on the faces that `draw` draws, by key.

    Each is kept in the folder `work`, if there is one, and used again as long as the edit and the unedited faces are
    the same.
    """
    originals = draw({})
    plain = pool.submit(originals, describe=True)()
    before, known = attribute_scores(plain), plain[DESCRIPTOR]
    contrast = np.array([fine_contrast(picture) for picture in originals])
    results: dict[str, Measurement] = {}
    waiting: deque[tuple[str, dict[float, Pending], list[np.ndarray]]] = deque()

    def finish() -> None:
        key, pending, roughness = waiting.popleft()
        measures = {strength: wait() for strength, wait in pending.items()}
        scores = {0.0: before, **{strength: attribute_scores(m) for strength, m in measures.items()}}
        ends = [measures[s][DESCRIPTOR] if s in measures else known for s in (STRENGTHS[0], STRENGTHS[-1])]
        results[key] = Measurement(
            np.stack([scores.get(s, before) for s in STRENGTHS]),
            np.stack([np.linalg.norm(end - known, axis=1) for end in ends]),
            np.stack(roughness),
        )
        if work:
            work.mkdir(parents=True, exist_ok=True)
            np.savez(work / f"{key}.npz", **vars(results[key]), vector=edits[key].vector)
        print(f"measured {key}", flush=True)

    for key, edit in edits.items():
        if work and (kept := _kept(work / f"{key}.npz", edit, before)):
            results[key] = kept
            continue
        pending, roughness = {}, {s: np.zeros(len(originals)) for s in (STRENGTHS[0], STRENGTHS[-1])}
        for strength in STRENGTHS:
            if not strength or strength < edit.minimum:
                continue
            pictures = draw({key: strength})
            pending[strength] = pool.submit(pictures, describe=strength in roughness)
            if strength in roughness:
                rough = np.array([fine_contrast(picture) for picture in pictures])
                roughness[strength] = np.log((rough + 0.1) / (contrast + 0.1))
        waiting.append((key, pending, list(roughness.values())))
        if len(waiting) > IN_FLIGHT:
            finish()
    while waiting:
        finish()
    return {key: results[key] for key in edits}


def _kept(file: Path, edit: EditDirection, before: np.ndarray) -> Measurement | None:
    """What was measured of this very edit on these very faces, as their scores before it tell."""
    if not file.is_file():
        return None
    kept = dict(np.load(file))
    middle = kept["scores"][STRENGTHS.index(0.0)]
    same = middle.shape == before.shape and np.allclose(middle, before, rtol=0.02, atol=0.1)
    if not same or not np.allclose(kept.pop("vector"), edit.vector, atol=1e-3):
        return None
    return Measurement(**kept)


def own_score(edit: EditDirection) -> int:
    """Number, in `SCORES`, of the score that an edit is meant to move."""
    return SCORES.index(edit.score or edit.key)


def effects(results: Mapping[str, Measurement]) -> np.ndarray:
    """What each edit does at +-60 to each score: (E, S), mean of half the difference, for one-sided edits the whole."""
    low, middle, high = (STRENGTHS.index(s) for s in (-MODERATE, 0.0, MODERATE))
    rows = []
    for result in results.values():
        one_sided = np.array_equal(result.scores[low], result.scores[middle])
        rows.append((result.scores[high] - result.scores[low]).mean(0) / (1 if one_sided else 2))
    return np.stack(rows)


def entanglement_matrix(edits: Mapping[str, EditDirection], results: Mapping[str, Measurement]) -> np.ndarray:
    """Entanglements (E, E): what each edit (row) does to each edit's score, over what that edit's own slider does to
    it.

    Where several edits are meant to move one score, the strongest is what entanglements are compared with.
    """
    columns = np.array([own_score(edits[key]) for key in results])
    table = effects(results)[:, columns]
    own = np.diag(table)
    strongest = [np.abs(np.where(columns == column, own, 0)).argmax() for column in columns]
    return table / own[strongest]


def worst_entanglement(
    edits: Mapping[str, EditDirection], results: Mapping[str, Measurement], key: str
) -> tuple[float, str]:
    """The largest entanglement of an edit, as a share, and the edit whose score it moves."""
    keys = list(results)
    row = np.abs(entanglement_matrix(edits, results)[keys.index(key)])
    row[[own_score(edits[other]) == own_score(edits[key]) for other in keys]] = 0
    return float(row.max()), keys[int(row.argmax())]


def monotone_share(edit: EditDirection, result: Measurement) -> float:
    """Share of faces whose own score falls from no measured slider value to the next, by more than `NOISE`."""
    own = result.scores[:, :, own_score(edit)]
    noise = NOISE * abs(own[-1].mean() - own[0].mean())
    return float((np.diff(own, axis=0) >= -noise).all(0).mean())


def misses(edits: Mapping[str, EditDirection], results: Mapping[str, Measurement], key: str) -> list[str]:
    """Which of the bounds an edit does not keep to: "order", "entanglement", "identity"."""
    failed = {
        "order": monotone_share(edits[key], results[key]) < MIN_MONOTONE,
        "entanglement": worst_entanglement(edits, results, key)[0] > MAX_ENTANGLEMENT,
        "identity": results[key].identity.mean(1).max() > MAX_IDENTITY,
    }
    return [name for name, missed in failed.items() if missed]


def _draw(edits: Mapping[str, EditDirection], faces: FaceSet) -> Draw:
    return lambda strengths: faces.draw(np.stack([edit_offset(edits, strengths, code) for code in faces.codes]))


def report(
    edits: Mapping[str, EditDirection], runs: Mapping[str, Mapping[str, Measurement]], spread: np.ndarray
) -> str:
    """The measured part of the report, Markdown, for measurements by the name of the set of faces."""
    parts = []
    for title, results in runs.items():
        count = next(iter(results.values())).scores.shape[1]
        entanglements = entanglement_matrix(edits, results)
        table = effects(results)
        keys = list(results)
        parts += [f"### {title[0].upper()}{title[1:]}, {count} faces", ""]
        parts += [
            "| edit | rows | own score at ±60 (SD) | monotone | entanglement | identity at -100 / +100 | roughness "
            "| misses |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for e, key in enumerate(keys):
            result, column = results[key], own_score(edits[key])
            entanglement, where = worst_entanglement(edits, results, key)
            low, high = result.identity.mean(1)
            rough = np.exp(result.roughness.mean(1))
            first, last = edits[key].layers
            parts.append(
                f"| {edits[key].label} (`{key}`) | {first}-{last} | {table[e, column] / spread[column]:.2f} "
                f"| {monotone_share(edits[key], result):.0%} | {entanglement:.0%} {where} "
                f"| {low:.2f} / {high:.2f} | {rough[0]:.2f} / {rough[1]:.2f} "
                f"| {', '.join(misses(edits, results, key)) or 'none'} |"
            )
        parts += [
            "",
            f"Entanglement matrix, {title}, in percent of what the column's own slider does to its score at ±60:",
            "",
        ]
        parts += ["| edit | " + " | ".join(keys) + " |", "| --- |" + " --- |" * len(keys)]
        for key, row in zip(keys, entanglements, strict=True):
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


def write_strips(folder: Path, edits: Mapping[str, EditDirection], draw: Draw) -> None:
    """One sheet a group, `GROUP.webp`: a row for each edit and face, at the slider values `PICTURED`."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[EditDirection]] = {}
    for edit in edits.values():
        groups.setdefault(edit.group, []).append(edit)
    plain = draw({})
    for group, members in groups.items():
        sheet = Image.new("RGB", (STRIP_SIZE * len(PICTURED), STRIP_SIZE * len(members) * len(plain)), "white")
        for m, edit in enumerate(members):
            for x, strength in enumerate(PICTURED):
                if strength < edit.minimum:
                    continue
                pictures = draw({edit.key: strength}) if strength else plain
                for f, picture in enumerate(pictures):
                    small = Image.fromarray(picture).resize((STRIP_SIZE, STRIP_SIZE), Image.Resampling.LANCZOS)
                    sheet.paste(small, (x * STRIP_SIZE, (m * len(plain) + f) * STRIP_SIZE))
            for f in range(len(plain)):
                ImageDraw.Draw(sheet).text(
                    (4, (m * len(plain) + f) * STRIP_SIZE + 2),
                    edit.label,
                    fill="white",
                    stroke_width=2,
                    stroke_fill="black",
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
    add_machine_arguments(parser, seed=1000)


def run(args: argparse.Namespace) -> int:
    """`directions check`."""
    edits = load_directions(args.file)
    print_vectors(edits)
    if args.nets is None and args.pictures is None:
        return 0
    if missing := [key for key in args.only or () if key not in edits]:
        raise GRAError(f"{args.file} has no edit {', '.join(missing)}.")
    chosen = {key: edits[key] for key in args.only or edits if (edits[key].score or key) in SCORED_BY}
    generator = load_generator(device=args.device)
    render = Renderer(generator, compiled=args.compile)
    faces = sample_w(generator, max(args.faces, PICTURED_FACES), args.seed, FACE_TRUNCATION)
    if args.nets is not None:
        with ScoringPool.open(args.nets, _tensor(args.file, GLASSES_PROBE), args.processes) as pool:
            work = args.work and args.work / "generated"
            runs = {"generated": measure_edits(chosen, _draw(edits, generated_faces(render, faces)), pool, work)}
            if args.real is not None:
                work = args.work and args.work / "real"
                files = photo_files(args.real, args.real_faces)
                (photos,) = photo_faces(files, len(files), args.device)
                runs["held-out photos"] = measure_edits(chosen, _draw(edits, photos), pool, work)
        text = report(edits, runs, _tensor(args.file, SPREAD))
        print(text)
        if args.out is not None:
            write_report(args.out, text)
    if args.pictures is not None:
        write_strips(args.pictures, edits, _draw(edits, generated_faces(render, faces[:PICTURED_FACES])))
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
