"""Principal components of W: GANSpace (Härkönen et al., NeurIPS 2020, https://arxiv.org/abs/2004.02546).

The components of codes w of a fixed seed, each moved on bands of rows of the W+ code. They serve as basis directions
of the fit, and those that move one score alone are edits of their own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gra_core.constants import MAX_STRENGTH
from gra_core.directions.registry import EditDirection
from gra_core.lab.directions.recipes import ATOM_STEP, BANDS, ComponentRecipe, on_band
from gra_core.lab.directions.sampling import sample_w
from gra_core.models.generator import Generator

SAMPLES, SEED = 20_000, 7
"""Codes that the components are taken of."""

COUNT, LOOKED_AT = 12, 30
"""How many components are basis directions of the fit, and how many are looked at as edits of their own."""

GANSPACE_BANDS = ("coarse", "middle", "fine")


@torch.inference_mode()
def components(generator: Generator, count: int = LOOKED_AT, samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """The first principal components of W, unit vectors (count, 512) float32, and their standard deviations (count,).

    The sign is chosen so that the largest entry of each is positive; nothing else in them is left to chance.
    """
    w = sample_w(generator, samples, SEED, truncation=1.0).astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(w.T))
    axes = axes[:, ::-1][:, :count].T
    largest = axes[np.arange(count), np.abs(axes).argmax(1)]
    axes = axes * np.sign(largest)[:, None]
    return axes.astype(np.float32), np.sqrt(variances[::-1][:count]).astype(np.float32)


def component_basis(axes: np.ndarray, first: int = 1) -> dict[str, np.ndarray]:
    """Offsets (16, 512) of components (C, 512) on bands of rows, named such as "pca3.middle", numbered from `first`."""
    return {
        f"pca{number}.{band}": on_band(axis, band, ATOM_STEP[band])
        for number, axis in enumerate(axes, first)
        for band in GANSPACE_BANDS
    }


def component_edits(axes: np.ndarray, recipes: Sequence[ComponentRecipe]) -> list[EditDirection]:
    """The edits of single components (C, 512)."""
    edits = []
    for r in recipes:
        vector = on_band(axes[r.component - 1], r.band, r.amount)
        texts = (r.key, r.label, r.hint, -MAX_STRENGTH, MAX_STRENGTH, vector, r.group, r.caveat)
        first, last = BANDS[r.band]
        provenance = (
            f"Principal component {r.component} of W (GANSpace), {SAMPLES} generated faces, rows {first}-{last}"
        )
        edits.append(EditDirection(*texts, provenance, "ganspace", r.score))
    return edits


def clean_components(
    effects: Mapping[str, np.ndarray], units: np.ndarray, columns: np.ndarray, bound: float
) -> list[tuple[str, int, float]]:
    """Component basis directions that move one score alone: name, number of the score, largest entanglement; the
    cleanest first.

    Args:
        effects: (S,) mean effect of each component basis direction, by name.
        units: (S,) effect on each score that entanglements are compared with.
        columns: (S,) bool, the scores that some edit moves.
        bound: largest entanglement allowed.
    """
    found = []
    for name, effect in effects.items():
        share = np.abs(effect) / units * columns
        order = np.argsort(-share)
        entanglement = float(share[order[1]] / max(share[order[0]], 1e-12))
        if entanglement <= bound:
            found.append((name, int(order[0]), entanglement))
    return sorted(found, key=lambda item: item[2])
