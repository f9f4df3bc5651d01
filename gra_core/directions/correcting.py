"""Takes leaks out of finished edits by adding some of the other edits, or by weighing an edit's own rows anew.

    python -m gra_core directions correct FILE --nets DIR --work DIR --out FILE

The fit sums edits of atoms whose effects were measured on few faces; what the check then finds left over is often just
what another slider does, so that an amount of that slider takes it out. It is the last step of the fit; for a file
that ships it needs no atoms, only the effects of its edits at ±60, which are measured here, in minutes.

`corrected_by` of a recipe names what may be added: other edits, such as "beard", and rows of edits, such as "smile.4".
The amounts are found as those of atoms are (`response.combine_evenly`), so that the edit moves its own score as far as
before and others less. The sum is tried, and corrected again by what the trial shows: effects do not quite add up.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from gra_core.checkpoints import record_checksum
from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions import check
from gra_core.directions.faces import generated_faces
from gra_core.directions.measuring import ATOM_FACTORS, FACE_TRUNCATION, PLAIN, PROBE, Effect, Group, measure_group
from gra_core.directions.planning import ASIDE, PLAIN_UNIT, STEP, STRENGTH
from gra_core.directions.recipes import RECIPES, STYLE_RECIPES, Recipe, StyleRecipe
from gra_core.directions.registry import DIRECTIONS_FILE, EditDirection, load_directions, save_directions
from gra_core.directions.response import Responses, combine_evenly
from gra_core.directions.sampling import Renderer, load_generator, sample_w
from gra_core.directions.scores import SCORES
from gra_core.directions.workers import ScoringPool
from gra_core.errors import GRAError
from gra_core.models.generator import Generator

ROUNDS = 3
"""How often an edit is corrected, each time by what it was measured to do after the time before."""

FACES = 24
"""Generated faces that effects are measured on."""

Wish = Recipe | StyleRecipe


def correction_faces(generator: Generator, render: Renderer, seed: int, count: int = FACES) -> Group:
    """Generated faces of their own, which neither atoms nor trials were measured on."""
    w = sample_w(generator, count, seed + 3, FACE_TRUNCATION)
    return Group("corrections", 0, False, lambda: generated_faces(render, w))


def part_of(edits: Mapping[str, EditDirection], name: str) -> np.ndarray:
    """Offset (16, 512) at +100 of an edit, "smile", or of some of its rows, "smile.4" or "smile.2-3".

    Raises:
        GRAError: there is no such edit.
    """
    key, _, rows = name.partition(".")
    if key not in edits:
        raise GRAError(f"There is no edit {key} to correct another one by.")
    if not rows:
        return edits[key].vector
    first, _, last = rows.partition("-")
    kept = slice(int(first), int(last or first) + 1)
    part = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
    part[kept] = edits[key].vector[kept]
    return part


def corrected_amounts(
    effects: Sequence[Effect], own: int, target: float, units: Mapping[int, float], spread: np.ndarray
) -> np.ndarray:
    """Amounts (K,) of offsets whose sum moves score `own` by `target` and the others less than the first offset does.

    Args:
        effects: of the K offsets on the same faces, the first that of the edit to be corrected.
        own: number of its score.
        target: in standard deviations of the score.
        units: by number of a score, the effect that a leak into it is compared with; others matter less.
        spread: (S,) standard deviations of the scores.
    """
    slopes = np.stack([effect.slopes() for effect in effects]) / spread
    offsets = np.stack([effect.offset for effect in effects])
    responses = Responses.measured(slopes, offsets, np.zeros((len(offsets), 0, 128)))
    compared = np.array([units.get(s, PLAIN_UNIT) for s in range(len(SCORES))])
    compared[own] = target
    weights = np.array([1.0 if s in units else ASIDE for s in range(len(SCORES))])
    return combine_evenly(responses, own, weights, compared, STEP) * target


def correct(
    edits: Sequence[EditDirection],
    group: Group,
    work: Path,
    spread: np.ndarray,
    pool: ScoringPool | None,
    wishes: Sequence[Wish] = (*RECIPES, *STYLE_RECIPES),
) -> list[EditDirection]:
    """The edits, those with `corrected_by` in their recipe corrected, in the same order.

    Args:
        edits: all that ship.
        group: faces to measure effects on.
        work: folder that keeps the effects.
        spread: (S,) standard deviations of the scores.
        pool: scores pictures; None: what the folder does not hold is not corrected.
        wishes: the recipes.
    """
    by_key = {edit.key: edit for edit in edits}
    wishes = [wish for wish in wishes if wish.corrected_by and wish.key in by_key]
    parts = {name: part_of(by_key, name) for wish in wishes for name in wish.corrected_by}
    whole = {edit.key: edit.vector for edit in edits} | parts
    share = STRENGTH / MAX_STRENGTH
    plain = {PLAIN: np.zeros((NUM_STYLES, STYLE_DIM), np.float32)}
    wanted = plain | {name: share * vector for name, vector in whole.items()}
    effects = measure_group(group, work, wanted, ATOM_FACTORS, pool)
    if len(effects) < len(wanted):
        print(f"{work} does not hold the effects of all edits: none is corrected.")
        return list(edits)
    owns = {key: check.own_score(edit) for key, edit in by_key.items()}
    moved = {key: effects[key].slopes().mean(0)[own] / spread[own] for key, own in owns.items()}
    units = {own: max(abs(moved[key]) for key in by_key if owns[key] == own) for own in owns.values()}
    result = dict(by_key)
    for wish in wishes:
        own = owns[wish.key]
        target = min(moved[wish.key], wish.reach) if wish.reach else moved[wish.key]
        vector, effect = by_key[wish.key].vector, effects[wish.key]
        for turn in range(ROUNDS):
            used = [effect, *(effects[name] for name in wish.corrected_by)]
            amounts = corrected_amounts(used, own, target, units, spread)
            added = dict(zip(wish.corrected_by, amounts[1:], strict=True))
            vector = amounts[0] * vector + sum(amount * parts[name] for name, amount in added.items())
            listed = ", ".join(f"{amount:+.2f} {name}" for name, amount in added.items())
            print(f"{wish.key}, round {turn + 1}: {amounts[0]:.2f} of it, {listed}", flush=True)
            if turn + 1 < ROUNDS:
                name = f"{wish.key}.corrected{turn + 1}"
                tried = measure_group(group, work, plain | {name: share * vector}, ATOM_FACTORS, pool)
                if name not in tried:
                    break
                effect = tried[name]
        edit = by_key[wish.key]
        names = ", ".join(wish.corrected_by)
        provenance = edit.provenance.split("; corrected by ")[0] + f"; corrected by {names}"
        result[wish.key] = replace(edit, vector=vector.astype(np.float32), provenance=provenance)
    return list(result.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `directions correct`."""
    parser.add_argument("file", type=Path, nargs="?", default=DIRECTIONS_FILE)
    parser.add_argument("--nets", type=Path, required=True, metavar="DIR", help="folder of the scoring nets, see below")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps the effects")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="edits to correct (all with a `corrected_by`)")
    parser.add_argument("--faces", type=int, default=FACES, metavar="N", help=f"generated faces ({FACES})")
    parser.add_argument("--device", help="where to render: cpu, cuda, ... (a GPU if there is one)")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="score in N processes (in this one)")
    parser.add_argument("--compile", action="store_true", help="compile the generator first")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """`directions correct`."""
    edits = load_directions(args.file)
    with safe_open(args.file, framework="numpy") as file:
        kept = {name: file.get_tensor(name) for name in (PROBE, check.SPREAD)}
    generator = load_generator(device=args.device)
    group = correction_faces(generator, Renderer(generator, compiled=args.compile), args.seed, args.faces)
    wishes = [wish for wish in (*RECIPES, *STYLE_RECIPES) if not args.only or wish.key in args.only]
    with ScoringPool.open(args.nets, kept[PROBE], args.processes) as pool:
        final = correct(list(edits.values()), group, args.work, kept[check.SPREAD], pool, wishes)
    save_directions(args.out, final, kept)
    record_checksum(args.out)
    return 0
