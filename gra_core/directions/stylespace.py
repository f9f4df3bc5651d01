"""Style space: the channels after the affine layers that read the rows of the W+ code (Wu et al., CVPR 2021,
https://arxiv.org/abs/2011.12799).

A channel scales one feature map of one convolution, and often moves one thing in the picture. Edits are kept in W+:
an offset of a row that changes the wanted channels and no others of that row exists exactly where the row feeds at
most 512 channels (rows 0, even rows, and odd rows from 11 up); elsewhere the nearest one is taken. `realised` says
what remains.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.models.generator import Generator

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
    """Change of each style channel by a W+ offset (16, 512), (C,)."""
    rows = torch.from_numpy(offset)
    return torch.cat([m.cpu() @ rows[i] for i, m in enumerate(style_matrices(generator))]).numpy()


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
