"""Pairs of pictures of one person who moves, out of real clips: what no generated pair shows the streams.

The generator explains its own faces by itself; a real head that turns takes a hat and a hand along. Of a pair
the streams are given the residuals of one frame and the code of the other, and are to draw the other. The encoder is to
find the same person in both.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import ENCODER_SIZE, IMAGE_SIZE
from gra_core.images import from_bytes, to_bytes
from gra_core.lab.training.data import drawn
from gra_core.lab.training.prepared import Picture, PreparedSet

SAME_QUAD = 0.06
"""Largest distance between corners of two frames' quads, as a share of their side, at which both are cut by the mean of
the two, so that what is behind stands still; else each is cut by its own, as codes are of faces in one place."""


@dataclass(frozen=True, eq=False)
class MotionPairs:
    """Pairs of frames of one clip each.

    Attributes:
        source: aligned frames whose residuals are taken, (B, 3, 1024, 1024) in [-1, 1].
        target: aligned frames to be drawn, the same shape.
        valid: where the target is picture and not made up, 0 or 1, (B, 1, 256, 256).
        apart: whether the two are cut by squares of their own, so that what is behind moves, 0 or 1, (B, 1, 1, 1).
    """

    source: Tensor
    target: Tensor
    valid: Tensor
    apart: Tensor


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a clip.

    Attributes:
        picture: (3, H, W), uint8.
        square: affine map (2, 3) from places in the aligned face, 0 to 1, to pixels of the picture; in main memory.
        box: left, top, right, bottom of what is picture, in pixels.
    """

    picture: Tensor
    square: Tensor
    box: tuple[float, ...]

    @classmethod
    def read(cls, data: PreparedSet, picture: Picture, device: torch.device) -> Self:
        """A frame of the prepared set."""
        pixels = torch.from_numpy(np.array(data.read(picture))).permute(2, 0, 1)
        first, below, _, beside = torch.tensor(picture.quad).view(4, 2)
        return cls(pixels.to(device), torch.stack((beside - first, below - first, first), 1), picture.box)


class Clips:
    """The frames of all clips of one split, decoded once, on the device."""

    def __init__(self, data: PreparedSet, device: torch.device, split: str = "train") -> None:
        rows = data.clips(split)
        with ThreadPoolExecutor() as pool:
            self.clips = [list(pool.map(lambda row: Frame.read(data, row, device), clip)) for clip in rows]

    def sample(self, count: int) -> MotionPairs:
        """Random pairs, every clip as often as another, half of them mirrored."""
        pairs = []
        for clip, turn in zip(torch.randint(len(self.clips), (count,)), torch.rand(count), strict=True):
            frames = self.clips[clip]
            first, second = torch.randperm(len(frames))[:2]
            pairs.append(pair_of(frames[first], frames[second], mirrored=bool(turn < 0.5)))
        return join(pairs)


class AlignedFrames:
    """The frames of all clips of one split, each cut by its own square, as photos are.

    Attributes:
        pictures: (N, 3, size, size), uint8, on the device.
        counts: frames of each clip, (C,).
        starts: the number of each clip's first frame, (C,).
    """

    def __init__(self, data: PreparedSet, size: int, device: torch.device, split: str = "train") -> None:
        clips = Clips(data, device, split).clips
        frames = (frame for clip in clips for frame in clip)
        self.pictures = torch.cat([to_bytes(cut(frame.picture, frame.square, size)) for frame in frames])
        self.counts = torch.tensor([len(clip) for clip in clips], device=device)
        self.starts = self.counts.cumsum(0) - self.counts

    def sample_pairs(self, count: int, *companions: Tensor) -> list[Tensor]:
        """Two different frames of each of `count` clips, every clip as often as another.

        Both are mirrored, or neither.

        Args:
            count: of pairs.
            companions: what belongs to the frames, (N, C, S, S), uint8.

        Returns:
            frames (2 * count, 3, size, size) in [-1, 1], all first ones, then all second ones; then the companions.
        """
        device = self.counts.device
        clip = torch.randint(len(self.counts), (count,), device=device)
        frames, (first, further) = self.counts[clip], torch.rand(2, count, device=device)
        first = (first * frames).long()
        second = (first + 1 + (further * (frames - 1)).long()) % frames
        return drawn(self.starts[clip] + torch.stack((first, second)), self.pictures, *companions)


def pair_of(source: Frame, target: Frame, *, mirrored: bool = False) -> MotionPairs:
    """A pair (B = 1) of two frames of one clip."""
    squares = [source.square, target.square]
    apart = distance(*squares) >= SAME_QUAD
    if not apart:
        squares = [(squares[0] + squares[1]) / 2] * 2
    if mirrored:
        squares = [mirror(square) for square in squares]
    pictures = [cut(frame.picture, square) for frame, square in zip((source, target), squares, strict=True)]
    device = target.picture.device
    valid = inside(places(squares[1], ENCODER_SIZE, device), target.box)
    return MotionPairs(*pictures, valid[None, None].float(), torch.full((1, 1, 1, 1), float(apart), device=device))


def join(pairs: list[MotionPairs]) -> MotionPairs:
    """Pairs as one batch."""
    return MotionPairs(*(torch.cat(x) for x in zip(*(vars(pair).values() for pair in pairs), strict=True)))


def distance(first: Tensor, second: Tensor) -> float:
    """Largest distance between corners of two squares (2, 3), as a share of the second's side."""
    corners = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1]]).T
    return ((first - second) @ corners).norm(dim=0).amax().item() / second[:, 0].norm().item()


def mirror(square: Tensor) -> Tensor:
    """A square (2, 3) that shows what it shows as a mirror does."""
    across, down, start = square.unbind(1)
    return torch.stack((-across, down, start + across), 1)


def places(square: Tensor, side: int, device: torch.device) -> Tensor:
    """Pixels, x and y, (side, side, 2), that the places of an aligned face show, by its square (2, 3)."""
    axis = (torch.arange(side, device=device) + 0.5) / side
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    (a, b, c), (d, e, f) = square.tolist()
    return torch.stack((a * u + b * v + c, d * u + e * v + f), -1)


def inside(points: Tensor, box: tuple[float, ...]) -> Tensor:
    """Which of the points (..., 2) lie in a box (left, top, right, bottom)."""
    (x, y), (left, top, right, bottom) = points.unbind(-1), box
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def cut(picture: Tensor, square: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """The aligned face (1, 3, size, size) in [-1, 1] that a square (2, 3) shows of a picture (3, H, W), uint8."""
    height, width = picture.shape[1:]
    to_grid = torch.tensor([[2 / width], [2 / height]])
    grid = places(to_grid * square, size, picture.device) - 1
    found = F.grid_sample(from_bytes(picture[None]), grid[None], "bicubic", "reflection", align_corners=False)
    return found.clamp(-1, 1)
