"""Style space: the channels after the affine layers that read the rows of the W+ code (Wu et al., CVPR 2021,
https://arxiv.org/abs/2011.12799).

A channel scales one feature map of one convolution, and often moves one thing in the picture. Edits are kept in W+:
an offset of a row that changes the wanted channels and no others of that row exists exactly where the row feeds at
most 512 channels (rows 0, even rows, and odd rows from 11 up); elsewhere the nearest one is taken. `realised` says
what remains.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions.recipes import STYLE_ATOMS, STYLE_STEP, StyleRecipe
from gra_core.directions.registry import EditDirection
from gra_core.directions.sampling import sample_w
from gra_core.models.generator import Generator

SPREAD_SEED = 5

RIDGE = 1e-3
"""Penalty on the length of a row's offset, relative to the mean square gain of its affine layers."""


def affine_layers(generator: Generator) -> list[list[nn.Linear]]:
    """The affine layers that read each row of the W+ code, in the order in which they are used."""
    rows: list[list[nn.Linear]] = [[] for _ in range(NUM_STYLES)]
    rows[0].append(generator.stem_modulation)
    for i, block in enumerate(generator.blocks):
        rows[1 + 2 * i] += [block.up_modulation, block.conv1.modulation]
        rows[2 + 2 * i].append(block.conv2.modulation)
    rows[-1].append(generator.image_modulation)
    return rows


def channel_rows(generator: Generator) -> np.ndarray:
    """Row of the W+ code that each style channel reads, (C,)."""
    widths = [sum(layer.out_features for layer in layers) for layers in affine_layers(generator)]
    return np.repeat(np.arange(NUM_STYLES), widths)


def style_matrices(generator: Generator) -> list[Tensor]:
    """For each row, the matrix (channels, 512) that takes an offset of the row to offsets of its channels."""
    return [torch.cat([layer.weight.detach().float() for layer in layers]) for layers in affine_layers(generator)]


@torch.inference_mode()
def channel_spread(generator: Generator, w: Tensor) -> np.ndarray:
    """Standard deviation (C,) of each style channel over codes w (N, 512)."""
    covariance = torch.cov(w.float().T)
    return (
        torch.cat([((m @ covariance) * m).sum(1).clamp(min=0).sqrt() for m in style_matrices(generator)]).cpu().numpy()
    )


@torch.inference_mode()
def to_w_plus(generator: Generator, channels: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """W+ offset (16, 512) float32 whose effect on the style channels is nearest to `channels` (C,).

    Nearest: least squares in units of `spread` (C,), with a small penalty (`RIDGE`) on the offset's length.
    """
    offset = torch.zeros(NUM_STYLES, STYLE_DIM)
    start = 0
    for row, matrix in enumerate(style_matrices(generator)):
        stop = start + len(matrix)
        wanted = torch.from_numpy(channels[start:stop].astype(np.float32))
        if wanted.any():
            scale = 1 / torch.from_numpy(spread[start:stop].astype(np.float32)).clamp(min=1e-6)
            a = (matrix.cpu() * scale[:, None]).double()
            gram = a.T @ a
            gram.diagonal().add_(RIDGE * gram.diagonal().mean())
            offset[row] = torch.linalg.solve(gram, a.T @ (wanted * scale).double()).float()
        start = stop
    return offset.numpy()


@torch.inference_mode()
def realised(generator: Generator, offset: np.ndarray) -> np.ndarray:
    """What a W+ offset (16, 512) adds to each style channel, (C,)."""
    rows = torch.from_numpy(offset)
    return torch.cat([m.cpu() @ rows[i] for i, m in enumerate(style_matrices(generator))]).numpy()


def style_atoms(generator: Generator) -> dict[str, np.ndarray]:
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


class ChannelTap:
    """Keeps the style channels of the generator's last forward pass, with their gradients after a backward pass.

    >>> with ChannelTap(generator) as tap:
    ...     generator(codes.requires_grad_()).mean().backward()
    ...     tap.gradient()  # (B, C)
    """

    def __init__(self, generator: Generator) -> None:
        self._layers = [layer for layers in affine_layers(generator) for layer in layers]

    def __enter__(self) -> "ChannelTap":
        """Start to listen."""
        self._styles: dict[int, Tensor] = {}
        self._hooks = [layer.register_forward_hook(partial(self._keep, i)) for i, layer in enumerate(self._layers)]
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the generator as it was."""
        for hook in self._hooks:
            hook.remove()

    def gradient(self) -> Tensor:
        """Gradients (B, C) of what was propagated back."""
        return torch.cat([self._styles[i].grad for i in range(len(self._layers))], 1)

    def clear(self) -> None:
        """Forget the gradients of earlier backward passes."""
        for style in self._styles.values():
            style.grad = None

    def _keep(self, i: int, _layer: nn.Module, _inputs: object, style: Tensor) -> None:
        style.retain_grad()
        self._styles[i] = style


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
