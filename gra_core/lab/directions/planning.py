"""Chooses of what basis directions each edit of `recipes` is made, from what the basis directions were measured to do
(`response`)."""

from collections.abc import Mapping, Sequence

import numpy as np

from gra_core.constants import MAX_STRENGTH
from gra_core.directions.registry import EditDirection
from gra_core.lab.directions import check
from gra_core.lab.directions.boundaries import Boundary
from gra_core.lab.directions.ganspace import clean_components
from gra_core.lab.directions.measuring import Effect
from gra_core.lab.directions.recipes import RECIPES, STYLE_RECIPES, Recipe
from gra_core.lab.directions.response import Responses, combine_evenly, identity_change, identity_distance
from gra_core.lab.directions.scores import SCORES

STEP = 0.004
"""How much the length of an edit matters beside its entanglements, see `response.combine_evenly`."""

ASIDE, ALONG = 0.3, 0.1
"""How much entanglements matter into scores that no shipped edit moves, and into those that may move along."""

PLAIN_UNIT = 1.2
"""Effect, in standard deviations, that entanglements into scores are compared with where no recipe says one."""

NEARNESS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Weights of the distance from the plain boundary, of which the first is taken that keeps to `Recipe.near`."""

SAFE_IDENTITY = 0.46
"""Mean identity distance at ±100 that edits are scaled down to: below the bound, for other faces differ."""

ADDING_UP = 1.0
"""Change of the person by an untried edit over what its basis directions' changes add up to."""

STRENGTH = 60.0
"""Slider value at which the edits of the start file are basis directions, and at which entanglements are looked at."""

START = "start"
"""What the names of basis directions end in that are edits of the file that the fit starts from."""

CLEAN, CANDIDATES, LONGEST = 0.5, 8, 14.0
"""Largest entanglement of a principal component that is tried as an edit of its own, how many are tried, and their
length."""


def entanglement_weights(recipe: Recipe) -> np.ndarray:
    """How much an entanglement of an edit into each score matters, (S,)."""
    moved = {r.fitted for r in RECIPES if r.shipped} | {r.score for r in STYLE_RECIPES}
    return np.array([ALONG if s in (*recipe.along, recipe.key) else 1.0 if s in moved else ASIDE for s in SCORES])


def plan(
    names: Sequence[str],
    responses: Responses,
    rows: np.ndarray,
    normals: Mapping[str, np.ndarray],
    adding_up: Mapping[str, float] | None = None,
) -> np.ndarray:
    """How much of each basis direction each edit of `RECIPES` at +100 is made of, (E, K).

    Args:
        names: of the basis directions.
        responses: of the basis directions, in standard deviations of the scores.
        rows: (K, 512) means of the rows of the basis directions' offsets.
        normals: of the boundaries, by attribute.
        adding_up: change of the person over what the changes by the basis directions add up to, by edit, of those
            tried.
    """
    units = np.full(len(SCORES), PLAIN_UNIT)
    for recipe in RECIPES:
        if recipe.shipped:
            units[SCORES.index(recipe.fitted)] = recipe.effect * STRENGTH / MAX_STRENGTH
    for _ in range(2):  # the second time with the effects that the bounds of length and identity leave
        amounts = np.stack(
            [
                _amounts(r, names, responses, rows, normals, units, (adding_up or {}).get(r.key, ADDING_UP))
                for r in RECIPES
            ]
        )
        for recipe, row in zip(RECIPES, amounts, strict=True):
            own = SCORES.index(recipe.fitted)
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
    own, normal = SCORES.index(recipe.fitted), normals[recipe.key]
    aside = rows - np.outer(rows @ normal, normal)
    for weight in NEARNESS:
        near = weight * aside @ aside.T
        amounts = combine_evenly(responses, own, entanglement_weights(recipe), units, STEP, recipe.identity, near)
        mean_row = amounts @ rows
        if not recipe.near or mean_row @ normal >= recipe.near * np.linalg.norm(mean_row):
            break
    length = float(np.sqrt(amounts @ responses.gram @ amounts))
    safe = identity_change(SAFE_IDENTITY) / max(adding_up * responses.change(amounts), 1e-6)
    return recipe.scale * amounts * min(recipe.effect, recipe.longest / length, max(safe, recipe.least))


def build_edits(
    amounts: np.ndarray, basis: Mapping[str, np.ndarray], boundaries: Mapping[str, Boundary], samples: int, faces: int
) -> list[EditDirection]:
    """The edits of `RECIPES`, in that order, shipped or not.

    Args:
        amounts: (E, K) of the basis directions, see `plan`.
        basis: offsets (16, 512) by name.
        boundaries: by attribute, for the provenance.
        samples: number of faces that they were fitted to.
        faces: number of faces that effects were measured on.
    """
    edits = []
    vectors = np.tensordot(amounts, np.stack(list(basis.values())), 1).astype(np.float32)
    for recipe, vector in zip(RECIPES, vectors, strict=True):
        provenance = (
            f"InterFaceGAN boundary in W on bands of rows, {samples} generated faces, "
            f"{boundaries[recipe.key].accuracy:.3f} of the extremes of held-out halves on the right side; entanglement "
            f"and changes of the person taken out by effects measured on {faces} faces"
        )
        texts = (recipe.key, recipe.label, recipe.hint, -MAX_STRENGTH, MAX_STRENGTH, vector, recipe.group)
        edits.append(EditDirection(*texts, recipe.caveat, provenance, kind="interfacegan"))
    return edits


def learn_from_trials(
    responses: Responses,
    tried: Mapping[str, np.ndarray],
    runs: Mapping[str, Mapping[str, check.Measurement]],
    spread: np.ndarray,
) -> tuple[Responses, dict[str, float]]:
    """Responses with what trials taught, and the `adding_up` of `plan` by edit.

    Args:
        responses: in units of `spread`.
        tried: amounts (K,) of the basis directions, by edit.
        runs: by the name of the group of faces, measurements by edit.
        spread: (S,).
    """
    keys = [key for key in tried if all(key in run for run in runs.values())] if runs else []
    if not keys:
        return responses, {}
    low, high = (check.STRENGTHS.index(s) for s in (-STRENGTH, STRENGTH))
    slopes = [[(run[key].scores[high] - run[key].scores[low]) / 2 for run in runs.values()] for key in keys]
    adding_up = {}
    for key in keys:
        far = max(run[key].identity.mean(1).max() for run in runs.values())
        adding_up[key] = float(identity_change(far)) / max(responses.change(tried[key]), 1e-6)
    amounts = STRENGTH / MAX_STRENGTH * np.stack([tried[key] for key in keys])
    return responses.updated(amounts, np.stack([np.concatenate(parts) for parts in slopes]) / spread), adding_up


def component_candidates(effects: Mapping[str, Effect], plain: np.ndarray, spread: np.ndarray) -> list[EditDirection]:
    """Edits of the principal components that move one score alone, to be looked at and named, see `ganspace`.

    Args:
        effects: of component basis directions, by name.
        plain: (N, 128) descriptors of the faces.
        spread: (S,) standard deviations of the scores.
    """
    units, columns = np.full(len(SCORES), PLAIN_UNIT), np.zeros(len(SCORES), bool)
    for recipe in RECIPES:
        if recipe.shipped:
            units[SCORES.index(recipe.key)] = recipe.effect * STRENGTH / MAX_STRENGTH
            columns[SCORES.index(recipe.key)] = True
    means = {name: effect.slopes().mean(0) / spread for name, effect in effects.items()}
    edits = []
    for name, own, entanglement in clean_components(means, units, columns, CLEAN)[:CANDIDATES]:
        effect, offset = means[name][own], effects[name].offset
        change = float(np.sqrt((effects[name].changes(plain) ** 2).sum(1).mean()))
        safe = identity_change(SAFE_IDENTITY) / max(ADDING_UP * change, 1e-6)
        reach = (2.0 / abs(effect), LONGEST / np.linalg.norm(offset), safe)
        vector = (min(reach) * np.sign(effect) * offset).astype(np.float32)
        moved = min(reach) * abs(effect)
        print(f"{name}: moves {SCORES[own]} by {moved:.2f} SD at 100, largest entanglement {entanglement:.0%}")
        texts = (name.replace(".", "_"), name, "", -MAX_STRENGTH, MAX_STRENGTH, vector, "Components")
        edits.append(EditDirection(*texts, kind="ganspace", score=SCORES[own]))
    return edits


def print_plan(
    names: Sequence[str],
    amounts: np.ndarray,
    responses: Responses,
    rows: np.ndarray,
    normals: Mapping[str, np.ndarray],
    adding_up: Mapping[str, float],
) -> None:
    """What the edits are expected to do, and the basis directions that they are mostly made of."""
    print(f"{'edit':<14}{'own at 60':>10}{'entanglement':>7}{'':>14}{'identity':>10}{'length':>8}{'cosine':>8}  mostly")
    own = {
        r.fitted: abs(a @ responses.mean[:, SCORES.index(r.fitted)])
        for r, a in zip(RECIPES, amounts, strict=True)
        if r.shipped
    }
    for recipe, row in zip(RECIPES, amounts, strict=True):
        moved = responses.largest(row)
        shares = {
            key: moved[SCORES.index(key)] / max(value, 1e-6) for key, value in own.items() if key != recipe.fitted
        }
        worst = max(shares, key=shares.get)
        mean_row = row @ rows
        cosine = mean_row @ normals[recipe.key] / max(np.linalg.norm(mean_row), 1e-9)
        change = identity_distance(adding_up.get(recipe.key, ADDING_UP) * responses.change(row))
        length = float(np.sqrt(row @ responses.gram @ row))
        size = np.abs(row) * np.sqrt(np.diag(responses.gram))
        most = ", ".join(f"{row[k]:+.2f} {names[k]}" for k in np.argsort(-size)[:4])
        mine = row @ responses.mean[:, SCORES.index(recipe.fitted)] * STRENGTH / MAX_STRENGTH
        print(
            f"{recipe.key:<14}{mine:>10.2f}{shares[worst]:>7.0%} {worst:<13}{change:>10.2f}{length:>8.1f}"
            f"{cosine:>8.2f}  {most}"
        )
