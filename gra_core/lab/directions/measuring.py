"""Measures what the fit learns from: scores of samples, effects of basis directions on groups of faces, trials of
edits.

All is kept in a work folder as soon as it is measured, and used again.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic

import numpy as np

from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import GLASSES_PROBE, EditDirection
from gra_core.errors import GRAError
from gra_core.lab.directions import check
from gra_core.lab.directions.faces import FaceSet, generated_faces, photo_faces, photo_files
from gra_core.lab.directions.recipes import RECIPES
from gra_core.lab.directions.response import Responses, codes_of, identity_change
from gra_core.lab.directions.sampling import Renderer, sample_w
from gra_core.lab.directions.scores import attribute_scores
from gra_core.lab.directions.workers import DESCRIPTOR, Measures, ScoringPool
from gra_core.models.generator import Generator

PROBE_TOLERANCE = 0.01
"""Training on the same labels again changes no weight of the probe by more than this (they are about 0.1)."""

BASIS_FACTORS = (-1.0, 1.0)
TRIAL_FACTORS = tuple(strength / MAX_STRENGTH for strength in check.STRENGTHS if strength)
"""Multiples of the offset at which basis directions and edits are measured."""

IN_FLIGHT = 6
"""Offsets whose pictures may wait for their scores while the next are rendered."""

GROUP = 16
"""Faces that are measured together: what is measured of an incomplete group is not used."""

PLAIN = "plain"
"""Name of the offset of zeros that is measured beside the trials."""

FACE_TRUNCATION = 0.7
"""Truncation of the faces that effects are measured on: a little less varied than the samples."""


@dataclass(frozen=True)
class Effect:
    """What multiples of one offset did to N faces.

    Attributes:
        offset: (16, 512).
        scores: (F, N, S) after each of F multiples.
        descriptors: (2, N, 128) of the faces after the first and the last, or (2, 0, 128) where they were not taken.
    """

    offset: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray

    def slopes(self) -> np.ndarray:
        """Half the difference (N, S) of the scores between the last multiple and the first."""
        return (self.scores[-1] - self.scores[0]) / 2

    def changes(self, plain: np.ndarray) -> np.ndarray:
        """Changes (N, 128) of the face descriptor, which add up in sums; `plain` (N, 128) is without the offset.

        Each points from the first multiple to the last. Its length is that of `identity_change` of the mean distance to
        the plain face, since distances saturate.
        """
        direction = self.descriptors[1] - self.descriptors[0]
        direction = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
        distance = np.linalg.norm(self.descriptors - plain, axis=2).mean(0)
        return direction * identity_change(distance)[:, None]


def sweep(
    faces: FaceSet,
    pool: ScoringPool,
    offsets: Mapping[str, np.ndarray],
    factors: Sequence[float],
    *,
    describe: bool,
    until: float = np.inf,
) -> Iterator[tuple[str, Effect]]:
    """Measure multiples of offsets on faces, one after the other.

    Args:
        faces: the faces.
        pool: takes their measures.
        offsets: (16, 512) by name.
        factors: the multiples, in rising order.
        describe: whether to take face descriptors after the first and the last multiple.
        until: time, by `time.monotonic`, from which no further offset is begun.

    Yields:
        The name and effect of each offset in order.
    """
    waiting: deque = deque()

    def finish() -> tuple[str, Effect]:
        name, pending = waiting.popleft()
        measures = [wait() for wait in pending]
        described = [m.get(DESCRIPTOR, np.zeros((0, 128))) for m in (measures[0], measures[-1])]
        scores = np.float32([attribute_scores(m) for m in measures])
        return name, Effect(offsets[name], scores, np.float32(described))

    for name, offset in offsets.items():
        if monotonic() > until:
            break
        ends = (factors[0], factors[-1])
        pending = [pool.submit(faces.draw(f * offset), describe=describe and f in ends) for f in factors]
        waiting.append((name, pending))
        if len(waiting) > IN_FLIGHT:
            yield finish()
    while waiting:
        yield finish()


def kept_effects(folder: Path) -> dict[str, Effect]:
    """Effects by name that `keep_effect` left in a folder."""
    result = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as kept:
            result[file.stem] = Effect(*(kept[name].astype(np.float32) for name in ("offset", "scores", "descriptors")))
    return result


def keep_effect(folder: Path, name: str, effect: Effect) -> None:
    """Write an effect to a folder, the offset and descriptors as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    small = {"offset": effect.offset.astype(np.float16), "descriptors": effect.descriptors.astype(np.float16)}
    np.savez_compressed(folder / f"{name}.npz", scores=effect.scores, **small)


def score_samples(
    w: np.ndarray, render: Renderer | None, pool: ScoringPool | None, probe: np.ndarray, file: Path
) -> Measures:
    """Measures (N,) of generated faces w (N, 512), kept in a file with the glasses probe that they were taken with.

    Raises:
        GRAError: they are not kept, and `pool` is None.
    """
    if file.is_file():
        measures = dict(np.load(file))
        same = np.allclose(measures.pop(GLASSES_PROBE), probe, atol=PROBE_TOLERANCE)
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
    np.savez_compressed(file, **measures, **{GLASSES_PROBE: probe, "w": w.astype(np.float16)})
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
    generator: Generator, render: Renderer, photos: Path | None, count: int, seed: int, device: str | None
) -> tuple[list[Group], list[Group]]:
    """Groups of faces for basis directions and for trials: `count` generated ones and as many photos, and one group
    more of each.

    Descriptors, which cost more than all scores together, are taken of the first group of each kind.
    """
    size = min(GROUP, count)
    basis = sample_w(generator, count, seed + 1, FACE_TRUNCATION)
    trials = sample_w(generator, size, seed + 2, FACE_TRUNCATION)
    starts = range(0, count, size)

    def generated(w: np.ndarray) -> Callable[[], FaceSet]:
        return lambda: generated_faces(render, w)

    groups = [[Group(f"generated{n}", 0, n == 0, generated(basis[i : i + size])) for n, i in enumerate(starts)]]
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
    groups: Sequence[tuple[Group, Mapping[str, Effect]]], basis: Mapping[str, np.ndarray], spread: np.ndarray
) -> Responses:
    """Responses, in units of `spread` (S,), from the effects of all basis directions, and of `PLAIN`, on groups of
    faces."""
    slopes, descriptors, kinds = [], [], []
    for group, effects in groups:
        slopes.append(np.stack([effects[name].slopes() for name in basis]) / spread)
        kinds += [group.kind] * slopes[-1].shape[1]
        if group.describe:
            plain = effects[PLAIN].descriptors[0]
            descriptors.append(np.stack([effects[name].changes(plain) for name in basis]))
    offsets = np.stack(list(basis.values()))
    seen = np.concatenate(descriptors, 1) if descriptors else np.zeros((len(basis), 0, 128))
    return Responses.measured(np.concatenate(slopes, 1), offsets, seen, np.array(kinds))


def as_measurements(effects: Mapping[str, Effect]) -> dict[str, check.Measurement]:
    """Trials as the check's measurements, by edit."""
    plain = effects[PLAIN]
    results = {}
    for key, effect in effects.items():
        if key != PLAIN:
            found = list(effect.scores)
            found.insert(check.STRENGTHS.index(0.0), plain.scores[0])
            ends = np.linalg.norm(effect.descriptors - plain.descriptors[0], axis=2)
            results[key] = check.Measurement(np.stack(found), ends, np.zeros_like(ends))
    return results


def try_edits(
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
        By edit, the amounts (K,) of the basis directions that the edit that was tried was made of, of those made of
        basis directions; and by group, the measurements of all edits.
    """
    record = work / "trials.json"
    if pool is not None:
        planned = {recipe.key: row.tolist() for recipe, row in zip(RECIPES, first, strict=True)}
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"basis": list(names), "amounts": planned}))
        wanted = {PLAIN: np.zeros((NUM_STYLES, STYLE_DIM), np.float32)} | {edit.key: edit.vector for edit in edits}
        found = {group.name: measure_group(group, work, wanted, TRIAL_FACTORS, pool) for group in groups}
    else:
        found = {group.name: kept_effects(work / group.name) for group in groups}
    kept = json.loads(record.read_text()) if record.is_file() else {"basis": [], "amounts": {}}
    amounts = {}
    for key, row in kept["amounts"].items():
        made = dict(zip(kept["basis"], row, strict=True))
        values = np.array([made.get(name, 0.0) for name in names])
        vector = np.tensordot(values, offsets, 1)
        if all(key in effects and np.allclose(effects[key].offset, vector, atol=3e-2) for effects in found.values()):
            amounts[key] = values
    runs = {name: as_measurements(effects) for name, effects in found.items() if PLAIN in effects}
    known = {edit.key for edit in edits}
    return amounts, {name: {key: m for key, m in run.items() if key in known} for name, run in runs.items()}
