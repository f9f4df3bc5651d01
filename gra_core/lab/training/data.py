"""Training pictures: real photos held on the device, generated ones with known codes, and what is done to both."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import GLASSES, EditDirection
from gra_core.images import from_bytes
from gra_core.lab.training.prepared import PreparedSet
from gra_core.models.generator import Generator, broadcast_w
from gra_core.models.maps import warp

HARD_EDITS = {
    "yaw": 10.0,
    "age": 8.0,
    **dict.fromkeys(("smile", "pitch", "glasses", "gender", "mouth_open"), 4.0),
}
"""How many times as often as another edit those are drawn that move or replace large parts of a face."""

AFFINE_STIFFNESS = 1e-3
"""Resistance of `affine_motion` to all but shifts, as a share of the picture: small patches move as a whole."""
NOTHING_COUNTS = 1e-4
"""Share of the picture below which a patch stays where it is."""


class RealFaces:
    """All aligned photos of a split, decoded once, as (N, 3, size, size) uint8 on the device."""

    def __init__(self, data: PreparedSet, split: str, size: int, device: torch.device) -> None:
        photos = data.photos(split)
        self.pictures = torch.empty((len(photos), 3, size, size), dtype=torch.uint8, device=device)

        def load(index: int) -> None:
            image = data.read(photos[index])
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.LANCZOS)
            self.pictures[index] = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(device)

        with ThreadPoolExecutor() as pool:
            list(pool.map(load, range(len(photos))))

    def add(self, pictures: Tensor) -> None:
        """Add pictures (N, 3, size, size), uint8, to those that `sample` draws from."""
        self.pictures = torch.cat((self.pictures, pictures))

    def sample(self, count: int) -> Tensor:
        """Random photos, half of them mirrored, (count, 3, size, size) in [-1, 1]."""
        return self.sample_with(count)[0]

    def sample_with(self, count: int, *companions: Tensor) -> list[Tensor]:
        """As `sample`, and what belongs to the same photos: companions (N, C, S, S), uint8, N photos in order."""
        index = torch.randint(len(self.pictures), (count,), device=self.pictures.device)
        return drawn(index, self.pictures, *companions)


def drawn(index: Tensor, *stored: Tensor) -> list[Tensor]:
    """Pictures in [-1, 1] of stored ones (N, C, S, S), uint8, by their numbers.

    Half of them are mirrored. Columns of an index (R, B) are mirrored alike; rows come one after another, (R * B, C, S,
    S).
    """
    mirrored = torch.rand(index.shape[-1:], device=index.device) < 0.5
    mirrored = mirrored.expand(index.shape).reshape(-1, 1, 1, 1)
    found = (from_bytes(pictures[index.flatten()]) for pictures in stored)
    return [torch.where(mirrored, x.flip(3), x) for x in found]


def sample_w(generator: Generator, count: int, truncation: float = 0.5) -> Tensor:
    """Random w (count, 512), each drawn towards the mean by its own factor, from `truncation` up to 1 (not at all)."""
    mean = generator.mean_w
    w = generator.mapping(torch.randn(count, STYLE_DIM, device=mean.device)).float()
    return mean + (w - mean) * torch.empty(count, 1, device=mean.device).uniform_(truncation, 1.0)


def sample_codes(generator: Generator, count: int, mixed: float = 0.5) -> Tensor:
    """Random W+ codes (count, 16, 512); a share of them takes its later rows, in part, from a second face."""
    codes, others = (broadcast_w(sample_w(generator, count)) for _ in range(2))
    rows = torch.arange(NUM_STYLES, device=codes.device)[None, :, None]
    first = torch.randint(1, NUM_STYLES, (count, 1, 1), device=codes.device)
    share = torch.rand(count, 1, 1, device=codes.device)
    share = share * (torch.rand(count, 1, 1, device=codes.device) < mixed)
    return torch.lerp(codes, others, share * (rows >= first))


@dataclass(frozen=True)
class NamedOffsets:
    """The edits that ship.

    Attributes:
        offsets: at strength 100, (N, 16, 512).
        odds: how often each is drawn, (N,).
        glasses: the offset that puts glasses on, (16, 512).
    """

    offsets: Tensor
    odds: Tensor
    glasses: Tensor

    @classmethod
    def of(cls, edits: Mapping[str, EditDirection], device: torch.device) -> Self:
        """Of the registry's edits; the hard ones are drawn more often."""
        offsets = torch.from_numpy(np.stack([edit.vector for edit in edits.values()])).float()
        odds = torch.tensor([HARD_EDITS.get(key, 1.0) for key in edits])
        glasses = offsets[list(edits).index(GLASSES)]
        return cls(*(x.to(device) for x in (offsets, odds, glasses)))

    def draw(self, *shape: int) -> Tensor:
        """Which are drawn, (*shape)."""
        return torch.multinomial(self.odds, math.prod(shape), replacement=True).view(shape)


def random_glasses(named: NamedOffsets, count: int, share: float) -> Tensor:
    """Offsets that put glasses on a share of faces, (count, 16, 512)."""
    device = named.glasses.device
    strength = torch.empty(count, 1, 1, device=device).uniform_(0.6, 1.2)
    return named.glasses * strength * (torch.rand(count, 1, 1, device=device) < share)


def random_offsets(generator: Generator, named: NamedOffsets, count: int) -> Tensor:
    """Random edits of W+ codes, (count, 16, 512).

    Most are one or two of the named ones, at strengths of up to 120; the rest go part of the way from one random
    face to another, on some of the rows only.
    """
    device = named.offsets.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(*shape, count, 1, 1, device=device).uniform_(low, high)

    strength = uniform(-1.2, 1.2, 2)
    strength[1] *= uniform(0, 1) < 0.3
    ours = (strength * named.offsets[named.draw(2, count)]).sum(0)
    rows = torch.arange(NUM_STYLES, device=device)[None, :, None]
    first, last = torch.randint(0, NUM_STYLES // 2, (2, count, 1, 1), device=device)
    other = broadcast_w(sample_w(generator, count) - sample_w(generator, count)) * uniform(0.1, 0.5)
    other = other * (rows >= first) * (rows <= NUM_STYLES // 2 + last)
    return torch.where(uniform(0, 1) < 0.7, ours, other)


def random_tone(count: int, device: torch.device, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random change of colours as a 3x3 matrix and an offset per picture: light, contrast, saturation, cast."""

    def spread(scale: float, *shape: int) -> Tensor:
        return strength * scale * (2 * torch.rand(count, *shape, device=device) - 1)

    grey = torch.full((3, 3), 1 / 3, device=device)
    eye = torch.eye(3, device=device)
    saturation = (1 + spread(0.5, 1, 1)).clamp_min(0)
    saturation = torch.where(torch.rand(count, 1, 1, device=device) < 0.05 * strength, 0.0, saturation)
    matrix = saturation * eye + (1 - saturation) * grey
    matrix = matrix * (1 + spread(0.15, 3, 1)) * (1 + spread(0.2, 1, 1))
    return matrix, spread(0.12, 3) + spread(0.15, 1)


def apply_tone(images: Tensor, tone: tuple[Tensor, Tensor]) -> Tensor:
    """Apply `random_tone` to (B, 3, H, W) in [-1, 1]; the result is clamped."""
    matrix, offset = tone
    with torch.autocast(images.device.type, enabled=False):
        toned = torch.einsum("bij,bjhw->bihw", matrix, images.float())
    return (toned + offset[:, :, None, None]).clamp(-1, 1)


def random_flow(count: int, device: torch.device, strength: float = 1.0, side: int = 128) -> Tensor:
    """Smooth random displacement (count, 2, side, side) in positions of `side`: rotation, scale, shift, bending."""

    def spread(scale: float, *shape: int) -> Tensor:
        return strength * scale * (2 * torch.rand(count, *shape, device=device) - 1)

    axis = (torch.arange(side, device=device) + 0.5) / side - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, scale = spread(math.radians(7), 1, 1), spread(0.07, 1, 1)
    shear = spread(0.05, 2, 1, 1)
    perspective = 1 + spread(0.08, 1, 1) * x + spread(0.08, 1, 1) * y
    affine = torch.stack((scale * x - angle * y + shear[:, 0] * y, scale * y + angle * x + shear[:, 1] * x), 1)
    moved = affine * perspective[:, None] + spread(0.04, 2, 1, 1)
    bend = F.interpolate(spread(0.02, 2, 5, 5), size=side, mode="bicubic", align_corners=True)
    return side * (moved + bend)


def inverse_flow(flow: Tensor, rounds: int = 8) -> Tensor:
    """The flow v with v(q) = -u(q + v(q)): where a picture warped by `flow` shows each point of the original."""
    inverse = -flow
    for _ in range(rounds):
        inverse = -warp(flow, inverse)
    return inverse


def affine_motion(flow: Tensor, weight: Tensor) -> Tensor:
    """The affine flow that is nearest to `flow` (B, 2, S, S) where `weight` (B, 1, S, S) counts; same shape.

    Where next to nothing counts, nothing moves.
    """
    side = flow.shape[-1]
    axis = torch.linspace(-1, 1, side, device=flow.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    basis = torch.stack((torch.ones_like(x), x, y)).flatten(1)
    with torch.autocast(flow.device.type, enabled=False):
        weighted = basis * (weight.float() / side**2).flatten(2)
        bend = AFFINE_STIFFNESS * torch.tensor([0.0, 1.0, 1.0], device=flow.device).diag()
        square = weighted @ basis.T + bend + NOTHING_COUNTS * torch.eye(3, device=flow.device)
        found = torch.linalg.solve(square, weighted @ flow.float().flatten(2).transpose(1, 2))
        return (found.transpose(1, 2) @ basis).view_as(flow)


def blur_detail(images: Tensor, keep: Tensor) -> Tensor:
    """Low-resolution look: pictures where `keep` (B,) is false lose detail above a quarter of their size."""
    small = F.avg_pool2d(images, 4)
    soft = F.interpolate(small, scale_factor=4, mode="bilinear", align_corners=False)
    return torch.where(keep[:, None, None, None], images, soft)


def random_patch_mask(count: int, size: int, device: torch.device, nearest: float = 0.3) -> Tensor:
    """Soft masks (count, 1, size, size) of one random ellipse or half-plane each, mostly near the border.

    `nearest`: least distance of its middle from the picture's, as a share of the side.
    """
    axis = (torch.arange(128, device=device) + 0.5) / 128
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = torch.rand(8, count, 1, 1, device=device)
    angle = 2 * math.pi * u[0]
    distance = nearest + (0.6 - nearest) * u[1]
    cx, cy = 0.5 + distance * torch.cos(angle), 0.5 + distance * torch.sin(angle)
    rx, ry, turn = 0.04 + 0.2 * u[2], 0.04 + 0.2 * u[3], math.pi * u[4]
    dx, dy = x - cx, y - cy
    along, across = dx * torch.cos(turn) + dy * torch.sin(turn), dy * torch.cos(turn) - dx * torch.sin(turn)
    ellipse = 1 - ((along / rx).square() + (across / ry).square()).sqrt()
    edge = (dx * torch.cos(angle) + dy * torch.sin(angle)) / 0.1
    shape = torch.where(u[5] < 0.7, ellipse, edge)
    sharpness = 8 + 40 * u[6]
    return F.interpolate(torch.sigmoid(sharpness * shape)[:, None], size=size, mode="bilinear", align_corners=False)
