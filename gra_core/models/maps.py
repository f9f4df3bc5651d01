"""Operations on maps, (B, C, S, S): pictures, masks, and flows, steps to the source, x and y, in positions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

HOLE = 1e-3
"""Share of a square that counts from which on the mean of what counts says something."""


def upscale(x: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of (B, C, S, S) by a whole factor, half-pixel centres."""
    if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    # As two matrix products: the gradient of `interpolate` adds up in memory, many to one, and is slow on a GPU.
    side = x.shape[-1]
    with torch.autocast(x.device.type, enabled=False):
        position = ((torch.arange(factor * side, device=x.device) + 0.5) / factor - 0.5).clamp(0, side - 1)
        weights = (1 - (position[:, None] - torch.arange(side, device=x.device)).abs()).clamp_min(0)
        return (weights @ x.float() @ weights.T).to(x.dtype)


def averaged(x: Tensor, side: int) -> Tensor:
    """(B, C, S, S) averaged over squares of `side` positions, smooth."""
    return upscale(F.avg_pool2d(x, side), side)


def box_filter(x: Tensor, side: int) -> Tensor:
    """Means of x (B, C, S, S) over the square of `side`, odd, around each place, as far as it lies inside."""
    if x.is_cuda:
        along_rows = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
        return F.avg_pool2d(along_rows, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    total = _windows(_windows(x, side, 3, torch.add, 0.0), side, 2, torch.add, 0.0)
    rows, columns = (_counts(length, side, x) for length in x.shape[2:])
    return total / (rows[:, None] * columns)


def dilate(mask: Tensor, margin: int) -> Tensor:
    """The region that a mask (B, 1, S, S) marks, wider by `margin` places all round; 0 or 1, or as soft as the mask."""
    side, mask = 2 * margin + 1, mask.float()
    if mask.is_cuda:
        along_rows = F.max_pool2d(mask, (1, side), 1, (0, margin))
        return F.max_pool2d(along_rows, (side, 1), 1, (margin, 0))
    along_rows = _windows(mask, side, 3, torch.maximum, -torch.inf)
    return _windows(along_rows, side, 2, torch.maximum, -torch.inf)


def _windows(x: Tensor, side: int, axis: int, combine: Callable[[Tensor, Tensor], Tensor], outside: float) -> Tensor:
    """Combine each window of `side` places, odd, along an axis; `outside` is the neutral value.

    Windows of 1, 2, 4, ... places are made of two of half the size each, and the wanted one of those. On a CPU that is
    ten times as fast as pooling.
    """
    margin, length = side // 2, x.shape[axis]
    part = F.pad(x, (margin, margin, 0, 0) if axis == 3 else (0, 0, margin, margin), value=outside)
    width, begun, result = 1, 0, None
    while True:
        if side & width:
            piece = part.narrow(axis, begun, length)
            result, begun = piece if result is None else combine(result, piece), begun + width
        if 2 * width > side:
            return result
        count = part.shape[axis] - width
        part, width = combine(part.narrow(axis, 0, count), part.narrow(axis, width, count)), 2 * width


def _counts(length: int, side: int, like: Tensor) -> Tensor:
    """How many places of the window of `side` around each place of a line lie inside, (length,)."""
    place, margin = torch.arange(length, device=like.device), side // 2
    return ((place + margin).clamp_max(length - 1) - (place - margin).clamp_min(0) + 1).to(like.dtype)


def erode(mask: Tensor, margin: int) -> Tensor:
    """As `dilate`, but narrower all round, though not at the edges of the picture."""
    return 1 - dilate(1 - mask, margin)


def linstep(x: Tensor, first: float, last: float) -> Tensor:
    """0 at `first` and before, 1 at `last` and beyond, growing in between; either can be the greater."""
    return ((x - first) / (last - first)).clamp(0, 1)


def push_pull_fill(picture: Tensor, keep: Tensor) -> Tensor:
    """Fill what is not kept with values from around it, from coarser and coarser means.

    Args:
        picture: (B, C, S, S), S a power of 2.
        keep: (B, 1, S, S), 1 where the picture is right, 0 where it is to be filled.
    """
    if picture.shape[-1] == 1:
        return picture
    weight = F.avg_pool2d(keep, 2)
    mean = F.avg_pool2d(picture * keep, 2) / weight.clamp_min(HOLE)
    coarse = push_pull_fill(mean, (weight > HOLE).float())
    filled = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(filled, picture, keep)


def warp(source: Tensor, flow: Tensor) -> Tensor:
    """Sample `source` (B, C, H, W) bilinearly at each position plus `flow` (B, 2, H, W; x, y in positions)."""
    height, width = source.shape[-2:]
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1].float()
    x = torch.arange(width, device=flow.device, dtype=torch.float32)[None, :] + flow[:, 0].float()
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    return sample(source.float(), grid, "bilinear").to(source.dtype)


def sample(source: Tensor, grid: Tensor, mode: str) -> Tensor:
    """As `F.grid_sample` of (B, C, H, W) at a grid (B, H', W', 2); what is outside is as at the edge.

    On a CPU, PyTorch shares the pictures of a batch among the processors, but not the rows of one. So strips of one
    picture make a batch here.
    """
    strips, rows = torch.get_num_threads(), grid.shape[1]
    if len(grid) > 1 or rows % strips or grid.is_cuda or torch.compiler.is_compiling():
        return F.grid_sample(source, grid, mode, "border", align_corners=False)
    strips = grid.view(strips, rows // strips, *grid.shape[2:])
    found = F.grid_sample(source.expand(len(strips), -1, -1, -1), strips, mode, "border", align_corners=False)
    return found.transpose(0, 1).reshape(1, -1, rows, grid.shape[2])


def upscale_flow(flow: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of a flow, its lengths scaled to the finer positions."""
    return flow if factor == 1 else factor * upscale(flow, factor)


def magnitude(flow: Tensor) -> Tensor:
    """Of each step of a flow (B, 2, S, S), (B, 1, S, S). `norm` takes 10 ms for that at 256 px, this next to none."""
    return torch.hypot(*flow.split(1, 1))


def sizes(flow: Tensor) -> tuple[Tensor, Tensor]:
    """How large what a flow shows at size 1 is in the source, along the direction where it is least and most.

    Args:
        flow: source position minus own, x and y, in positions, (B, 2, S, S).

    Returns:
        The singular values of its Jacobian, (B, 1, S, S) each.
    """
    along_x, along_y = (torch.gradient(flow, dim=axis)[0] for axis in (3, 2))
    (a, c), (b, d) = along_x.unbind(1), along_y.unbind(1)
    # Of the matrix ((1 + a, b), (c, 1 + d)) that takes small steps in the picture to steps in its source.
    evenly, unevenly = torch.hypot(2 + a + d, c - b) / 2, torch.hypot(a - d, b + c) / 2
    return (evenly - unevenly).abs()[:, None], (evenly + unevenly)[:, None]
