"""Edits of single style channels, and how strongly each channel moves each region of a picture."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gra_core.constants import MAX_STRENGTH
from gra_core.directions.registry import EditDirection
from gra_core.directions.stylespace import ChannelTap, channel_rows, channel_spread, to_w_plus
from gra_core.lab.directions.recipes import STYLE_ATOMS, STYLE_STEP, StyleRecipe
from gra_core.lab.directions.sampling import sample_w
from gra_core.models.generator import Generator

SPREAD_SEED = 5


def style_basis(generator: Generator) -> dict[str, np.ndarray]:
    """W+ offsets (16, 512) of the style channels `recipes.STYLE_ATOMS`, by names such as "teeth.style"."""
    recipes = [StyleRecipe(name, name, "", "", channel, STYLE_STEP) for name, channel in STYLE_ATOMS.items()]
    return {f"{edit.key}.style": edit.vector for edit in style_edits(generator, recipes)}


def style_edits(generator: Generator, recipes: Sequence[StyleRecipe], samples: int = 4000) -> list[EditDirection]:
    """The edits of single style channels, as W+ offsets; a channel's spread is that over `samples` generated faces."""
    rows = channel_rows(generator)
    w = sample_w(generator, samples, SPREAD_SEED, truncation=1.0)
    spread = channel_spread(generator, torch.from_numpy(w).to(generator.mean_w))
    edits = []
    for recipe in recipes:
        wanted = np.zeros(len(rows), np.float32)
        wanted[recipe.channel] = recipe.amount * spread[recipe.channel]
        row = int(rows[recipe.channel])
        provenance = (
            f"Style channel {recipe.channel - int(np.flatnonzero(rows == row)[0])} of row {row}, one of those "
            f"that move one region only; {recipe.amount:g} standard deviations over {samples} generated faces"
        )
        texts = (recipe.key, recipe.label, recipe.hint, -MAX_STRENGTH, MAX_STRENGTH)
        vector = to_w_plus(generator, wanted, spread)
        edit = EditDirection(*texts, vector, recipe.group, recipe.caveat, provenance, "stylespace", recipe.score)
        edits.append(edit)
    return edits


def region_energy(generator: Generator, codes: Tensor, masks: np.ndarray, tries: int, seed: int = 0) -> np.ndarray:
    """How strongly each style channel moves each region of a picture, (R, C): mean square derivative of its pixels.

    In place of moving each of the thousands of channels and rendering, the derivative of random sums of a region's
    pixels (signs +-1) is propagated back: the mean of its square over signs is the sum of the squares over pixels
    (Hutchinson's estimator). Pixels are means over squares of 16 x 16.

    Args:
        generator: with its weights.
        codes: W+ code (1, 16, 512) of one face.
        masks: (R, 64, 64), bool, of the regions.
        tries: how many random signs for each region.
        seed: of the signs.
    """
    random = torch.Generator().manual_seed(seed)
    codes = codes.detach().clone().requires_grad_()
    side = masks.shape[-1]
    with torch.enable_grad(), ChannelTap(generator) as tap:
        picture = generator(codes)
        small = torch.nn.functional.avg_pool2d(picture, picture.shape[-1] // side)[0]
        energy = []
        for mask in masks:
            inside, total = torch.from_numpy(mask).to(small), 0.0
            for _ in range(tries):
                signs = torch.randint(0, 2, small.shape, generator=random).to(small) * 2 - 1
                tap.clear()
                (small * signs * inside).sum().backward(retain_graph=True)
                total = total + tap.gradient()[0].double().square()
            energy.append(total / tries)
    return torch.stack(energy).cpu().numpy()
