"""Takes entanglements out of finished edits by adding some of the other edits.

    python -m gra_core directions correct FILE --nets DIR --work DIR --out FILE

The fit sums edits of basis directions whose effects were measured on few faces; what the check then finds left over is
often just what another slider does, so that an amount of that slider takes it out. It is the last step of the fit; for
a file that ships it needs no basis directions, only the effects of its edits at ±60, which are measured here, in
minutes.

`corrected_by` of a recipe names the edits to add. Their amounts, and that of the edit itself, solve a linear system:
the edit's own score moves as far as before, or as `reach` says, and the scores of the edits named no further than
`allowed`. The sum is tried, and corrected again by what the trial shows, since effects do not quite add up.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from gra_core.checkpoints import record_checksum
from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import DIRECTIONS_FILE, GLASSES_PROBE, EditDirection, load_directions, save_directions
from gra_core.lab.directions import check
from gra_core.lab.directions.faces import generated_faces
from gra_core.lab.directions.measuring import BASIS_FACTORS, FACE_TRUNCATION, PLAIN, Group, measure_group
from gra_core.lab.directions.planning import STRENGTH
from gra_core.lab.directions.recipes import RECIPES, Recipe
from gra_core.lab.directions.sampling import Renderer, load_generator, sample_w
from gra_core.lab.directions.workers import ScoringPool, add_machine_arguments
from gra_core.models.generator import Generator

ROUNDS = 3
"""How often an edit is corrected, each time by what it was measured to do after the time before."""

FACES = 24
"""Generated faces that effects are measured on."""

MARK = "; corrected by "
"""What the provenance of a corrected edit says before the names."""


def correction_faces(generator: Generator, render: Renderer, seed: int, count: int = FACES) -> Group:
    """Generated faces of their own, which neither basis directions nor trials were measured on."""
    w = sample_w(generator, count, seed + 3, FACE_TRUNCATION)
    return Group("corrections", 0, False, lambda: generated_faces(render, w))


def corrected_amounts(effects: np.ndarray, target: float, allowed: np.ndarray) -> np.ndarray:
    """Amounts (K,) of K edits, the first the one to correct, whose sum moves its score by `target` and is less
    entangled.

    Args:
        effects: (K, K) mean effect of each edit (row) on the score of each (column), in standard deviations.
        target: of the first.
        allowed: (K,) effects on the scores that may stay; the first is not used.
    """
    wanted = effects[0] * target / effects[0, 0]
    wanted[1:] = np.clip(wanted[1:], -allowed[1:], allowed[1:])
    return np.linalg.solve(effects.T, wanted)


def correct(
    edits: Sequence[EditDirection],
    group: Group,
    work: Path,
    spread: np.ndarray,
    pool: ScoringPool | None,
    wishes: Sequence[Recipe] = RECIPES,
) -> list[EditDirection]:
    """The edits, those corrected whose recipes ask for it by `corrected_by` or `reach`, in the same order.

    Args:
        edits: all that ship.
        group: faces to measure effects on.
        work: folder that keeps the effects.
        spread: (S,) standard deviations of the scores.
        pool: scores pictures; None: what the folder does not hold is not corrected.
        wishes: the recipes.
    """
    by_key = {edit.key: edit for edit in edits}
    wishes = [wish for wish in wishes if (wish.corrected_by or wish.reach) and wish.key in by_key]
    share = STRENGTH / MAX_STRENGTH
    wanted = {PLAIN: np.zeros((NUM_STYLES, STYLE_DIM), np.float32)}
    wanted |= {key: share * edit.vector for key, edit in by_key.items()}
    effects = measure_group(group, work, wanted, BASIS_FACTORS, pool)
    if len(effects) < len(wanted):
        print(f"{work} does not hold the effects of all edits: none is corrected.")
        return list(edits)
    moves = {key: effects[key].slopes().mean(0) / spread for key in by_key}
    owns = {key: check.own_score(edit) for key, edit in by_key.items()}
    result = dict(by_key)
    for wish in wishes:
        edit, names = by_key[wish.key], list(wish.corrected_by)
        columns = [owns[name] for name in (wish.key, *names)]
        units = np.array([max(abs(moves[key][c]) for key in by_key if owns[key] == c) for c in columns])
        target = min(moves[wish.key][columns[0]], wish.reach or np.inf)
        vector, moved = edit.vector, moves[wish.key]
        for turn in range(ROUNDS):
            table = np.stack([moved, *(moves[name] for name in names)])[:, columns]
            first, *added = corrected_amounts(table, target, wish.allowed * units)
            vector = first * vector + sum(a * by_key[name].vector for a, name in zip(added, names, strict=True))
            listed = "".join(f", {a:+.2f} {name}" for a, name in zip(added, names, strict=True))
            print(f"{wish.key}, round {turn + 1}: {first:.2f} of it{listed}", flush=True)
            name = f"{wish.key}.corrected{turn + 1}"
            tried = measure_group(group, work, {name: share * vector}, BASIS_FACTORS, pool) if turn + 1 < ROUNDS else {}
            if name not in tried:
                break
            moved = tried[name].slopes().mean(0) / spread
        provenance = edit.provenance.split(MARK)[0] + (MARK + ", ".join(names) if names else "")
        result[wish.key] = replace(edit, vector=vector.astype(np.float32), provenance=provenance)
    return list(result.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `directions correct`."""
    parser.add_argument("file", type=Path, nargs="?", default=DIRECTIONS_FILE)
    parser.add_argument("--nets", type=Path, required=True, metavar="DIR", help="folder of the scoring nets, see below")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps the effects")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="edits to correct (all whose recipes ask for it)")
    parser.add_argument("--faces", type=int, default=FACES, metavar="N", help=f"generated faces ({FACES})")
    add_machine_arguments(parser, seed=0)


def run(args: argparse.Namespace) -> int:
    """`directions correct`."""
    edits = load_directions(args.file)
    with safe_open(args.file, framework="numpy") as file:
        kept = {name: file.get_tensor(name) for name in (GLASSES_PROBE, check.SPREAD)}
    generator = load_generator(device=args.device)
    group = correction_faces(generator, Renderer(generator, compiled=args.compile), args.seed, args.faces)
    wishes = [wish for wish in RECIPES if not args.only or wish.key in args.only]
    with ScoringPool.open(args.nets, kept[GLASSES_PROBE], args.processes) as pool:
        final = correct(list(edits.values()), group, args.work, kept[check.SPREAD], pool, wishes)
    save_directions(args.out, final, kept)
    record_checksum(args.out)
    return 0
