"""Exemplar-based inpainting: what is missing of a picture is put together from pieces of what is seen.

Patches grow from the rim of the hole inwards at a coarse scale (Criminisi et al. 2004) and are then brought into
agreement with each other (Wexler et al. 2007, https://doi.org/10.1109/TPAMI.2007.60); where each patch came from is
refined at twice the size among the neighbours' places (PatchMatch, Barnes et al. 2009). The pieces are joined by their
gradients (Perez et al. 2003), so that their colours meet at the seams and at the rim. What catches the eye is out of
focus away from the rim: pieces of things, like halves of stars, look odd where pieces of a texture do not.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.models.maps import HOLE, averaged, dilate, erode, linstep, upscale

PATCH = 7
RADIUS = PATCH // 2
COARSE_SIDE, FINE_SIDE = 64, 128
"""Sides of the pictures in which patches are placed first, and are refined; they are joined at the hole's."""
SEEN_SHARE = 0.5
"""So much of a patch has to be seen for it to be copied."""
UNSEEN_COST = 0.02
"""Cost of each unseen number of a patch that is copied; others cost the square of the difference."""
DISTANCE_COST = 0.05
"""Cost of a patch for each place of distance to its source in the coarse picture; colours are in [-1, 1]."""
FADING = 0.85
"""How much less a patch counts than one nearer to the rim by one place."""
COARSE_ROUNDS, FINE_ROUNDS = 3, 2
NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))
FURTHER = 4
"""Neighbours at this distance are asked, too, where their patches came from."""
JOINING_STEPS = 100
"""Of conjugate gradients."""
BLURS = (1, 2, 4, 8, 16)
"""Pixels of 256 over which a picture that is more and more out of focus is averaged."""
BLUR_GROWTH = 0.6
"""By how many such pixels it grows for each pixel of 256 away from the rim, """
IN_FOCUS = 3
"""beyond the first few."""
CATCHES_EYE = (0.08, 0.2)
"""Contrasts, in [-1, 1], between which what catches the eye begins."""
FAR = (24, 48)
"""Pixels of 256 from the rim between which everything begins to be out of focus."""
BUSY = (0.01, 0.05)
"""Shares of what was filled that catch the eye, between which a background ceases to be a plain wall."""


@dataclass(frozen=True, eq=False)
class Scale:
    """A picture at one size.

    Attributes:
        picture: (1, 3, S, S), right where seen.
        seen: 1 where it may be copied from, 0 where it is to be filled, (1, 1, S, S).
    """

    picture: Tensor
    seen: Tensor

    @classmethod
    def of(cls, picture: Tensor, seen: Tensor, side: int) -> Self:
        """Of a picture (1, 3, S, S) that shows the right thing where `seen` (1, 1, S, S) is 1, else 0."""
        factor = picture.shape[-1] // side
        weight = F.avg_pool2d(seen, factor)
        mean = F.avg_pool2d(picture * seen, factor) / weight.clamp_min(1e-6)
        return cls(mean, (weight > 0.5).float())

    @property
    def hole(self) -> Tensor:
        """1 where the picture is to be filled, (1, 1, S, S)."""
        return 1 - self.seen

    def copyable(self) -> Tensor:
        """Whether each place and most of the patch around it are seen, (S * S,)."""
        return (self.seen.view(-1) > 0) & (patches(self.seen).mean(1) >= SEEN_SHARE)

    def touching(self) -> Tensor:
        """Indices of the places whose patches reach into the hole, (T,)."""
        return dilate(self.hole, RADIUS).view(-1).nonzero()[:, 0]

    @cached_property
    def depth(self) -> Tensor:
        """How many places it is from each place to what is seen, (1, 1, S, S)."""
        depth, left = torch.zeros_like(self.hole), self.hole
        while left.any():
            depth, left = depth + left, erode(left, 1)
        return depth

    def trust(self) -> Tensor:
        """How much the patch around each place counts, (S * S,): less, the further from what is seen."""
        return FADING ** self.depth.view(-1)


def inpaint(photo: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Fill a hole with what is around it.

    Args:
        photo: (1, 3, 1024, 1024) in [-1, 1].
        hole: 1 where it is to be filled, else 0, (1, 1, 256, 256).

    Returns:
        (1, 3, 1024, 1024) in [-1, 1], the photo itself outside of the hole; how little is known of what is in there,
        (1, 1, 256, 256): pixels by which it is out of focus, and 1 for a plain wall; how busy the background is, from 0
        for a plain wall to 1, (1,). None if too little is seen.
    """
    side = hole.shape[-1]
    factor = photo.shape[-1] // side
    whole = Scale(F.avg_pool2d(photo, factor), 1 - hole)
    coarse, fine = (Scale.of(whole.picture, whole.seen, side) for side in (COARSE_SIDE, FINE_SIDE))
    if coarse.copyable().sum() < PATCH**2:
        return None
    filled, source = refine(fine, *doubled(fine, *place_patches(coarse)))
    start, source = doubled(whole, filled, source)
    joined = poisson_blend(whole, start, source)
    detail = whole.seen * F.pixel_unshuffle(photo - upscale(joined, factor), factor)
    depth = upscale(coarse.depth, side // COARSE_SIDE) * side / COARSE_SIDE
    catching, far = saliency(joined, whole.hole), linstep(depth, *FAR)
    blur = blur_of(torch.maximum(catching, far), depth)
    busy = linstep((catching * whole.hole).sum() / whole.hole.sum().clamp_min(1), *BUSY)
    unknown = blur_of(torch.maximum(catching, busy * far), depth)
    sharp = linstep(blur, BLURS[1], BLURS[0])
    smooth = upscale(blurred(joined, blur), factor) + F.pixel_shuffle(sharp * taken(detail, source), factor)
    return torch.lerp(photo, smooth, F.interpolate(hole, scale_factor=factor)).clamp(-1, 1), unknown, busy[None]


def place_patches(scale: Scale) -> tuple[Tensor, Tensor]:
    """A filled picture (1, 3, S, S), and the index of the place that each place was taken from, (S * S,)."""
    places, channels = places_of(scale.hole), scale.picture.shape[1]
    from_index = scale.copyable().nonzero()[:, 0]
    seen = patches(scale.seen)[from_index]
    seen_in_channels = seen.repeat(1, channels)
    sources = patches(scale.picture * scale.seen)[from_index]

    def fill(picture: Tensor, known: Tensor, at: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
        """A picture of patches around the places `at` (T,), and the indices of those they were taken from."""
        distances = torch.cdist(places[at].float(), places[from_index].float())
        weights = patches(known)[at].repeat(1, channels)
        found = most_alike(patches(picture)[at], weights, sources, seen_in_channels, distances)
        return paste(sources[found], trust[:, None] * seen[found], at, picture.shape[-1]), from_index[found]

    picture, known = scale.picture * scale.seen, scale.seen
    while (front := dilate(known, 1) * (1 - known)).any():
        at = front.view(-1).nonzero()[:, 0]
        pasted, _ = fill(picture, known, at, torch.ones_like(at, dtype=picture.dtype))
        picture, known = torch.lerp(picture, pasted, front), known + front
    at, trust, source = scale.touching(), scale.trust(), torch.arange(len(places), device=places.device)
    for _ in range(COARSE_ROUNDS):
        pasted, found = fill(picture, known, at, trust[at])
        picture, source = torch.lerp(picture, pasted, scale.hole), source.index_copy(0, at, found)
    return picture, source


def refine(scale: Scale, picture: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """As `place_patches`, from its result at this scale: each patch tries where its neighbours' come from."""
    places, copyable, side = places_of(picture), scale.copyable(), picture.shape[-1]
    at, trust = scale.touching(), scale.trust()
    picture = torch.lerp(picture, taken(picture, source), scale.hole)
    asked = [(row, column, 0, 0) for row, column in ((0, 0), *NEIGHBOURS)]
    asked += [(FURTHER * row, FURTHER * column, 0, 0) for row, column in NEIGHBOURS]
    asked += [(0, 0, row, column) for row, column in NEIGHBOURS]
    for _ in range(FINE_ROUNDS):
        sources = patches(picture)
        wanted, moves = sources[at], (places[source] - places).T.view(2, side, side)
        best, found = torch.full_like(trust[at], torch.inf), source[at]
        for row, column, down, right in asked:
            move = moves.roll((row, column), (1, 2)).view(2, -1).T[at] + torch.tensor((down, right), device=at.device)
            index = within(places[at] + move, side)
            cost = (wanted - sources[index]).square().sum(1)
            cost = cost + DISTANCE_COST * COARSE_SIDE / side * torch.hypot(*move.float().unbind(1))
            better = (cost < best) & copyable[index]
            best, found = torch.where(better, cost, best), torch.where(better, index, found)
        source = source.index_copy(0, at, found)
        picture = torch.lerp(picture, paste(sources[found], trust[at, None].expand(-1, PATCH**2), at, side), scale.hole)
    return picture, source


def poisson_blend(scale: Scale, start: Tensor, source: Tensor) -> Tensor:
    """The picture (1, 3, S, S) whose gradients in the hole are those of the places it was taken from.

    Args:
        scale: whose hole is filled.
        start: a first guess, (1, 3, S, S).
        source: index of the place that each place was taken from, (S * S,).
    """
    first = torch.lerp(scale.picture, start, scale.hole)
    edges = []
    for axis in (2, 3):
        after, before = (taken(x, source) for x in (difference(first, axis), backward(first, axis)))
        edge = torch.maximum(scale.hole, scale.hole.roll(-1, axis))
        edge = edge.index_fill(axis, torch.tensor([edge.shape[axis] - 1], device=edge.device), 0)
        edges.append((axis, edge, edge * (after + before.roll(-1, axis)) / 2))

    def gathered(fields: list[Tensor]) -> Tensor:
        inflows = [
            field.diff(dim=axis, prepend=torch.zeros_like(field.narrow(axis, 0, 1)))
            for (axis, _, _), field in zip(edges, fields, strict=True)
        ]
        return -scale.hole * sum(inflows)

    def curvature(x: Tensor) -> Tensor:
        return gathered([edge * difference(x, axis) for axis, edge, _ in edges])

    x, residual = first, gathered([wanted for _, _, wanted in edges]) - curvature(first)
    direction, size = residual, residual.square().sum((2, 3), keepdim=True)
    for _ in range(JOINING_STEPS):
        bent = curvature(direction)
        step = size / (direction * bent).sum((2, 3), keepdim=True).clamp_min(1e-12)
        x, residual = x + step * direction, residual - step * bent
        previous, size = size, residual.square().sum((2, 3), keepdim=True)
        direction = residual + size / previous.clamp_min(1e-12) * direction
    return x


def saliency(picture: Tensor, hole: Tensor) -> Tensor:
    """How much what was filled catches the eye, 0 to 1, (1, 1, S, S).

    Args:
        picture: the filled picture, (1, 3, S, S).
        hole: 1 where it was filled, else 0, (1, 1, S, S).
    """
    contrast = (picture - averaged(picture, BLURS[-1])).abs().amax(1, keepdim=True)
    contrast = averaged(contrast * hole, BLURS[-1]) / averaged(hole, BLURS[-1]).clamp_min(HOLE)
    return linstep(contrast, *CATCHES_EYE)


def blur_of(share: Tensor, depth: Tensor) -> Tensor:
    """How far out of focus a place is, in pixels, from 1 for not at all, (1, 1, S, S).

    Args:
        share: of what it would be out of focus at most, (1, 1, S, S).
        depth: pixels from there to what is seen, (1, 1, S, S).
    """
    return (1 + BLUR_GROWTH * share * (depth - IN_FOCUS).clamp_min(0)).clamp(max=BLURS[-1])


def blurred(picture: Tensor, blur: Tensor) -> Tensor:
    """A picture (B, C, S, S), each place averaged over so many pixels as `blur` (B, 1, S, S) says, 1 to 16."""
    result = picture
    for sharper, softer in pairwise(BLURS):
        result = torch.lerp(result, averaged(picture, softer), linstep(blur, sharper, softer))
    return result


def places_of(picture: Tensor) -> Tensor:
    """Row and column of each place of (1, C, S, S), (S * S, 2)."""
    axis = torch.arange(picture.shape[-1], device=picture.device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)


def difference(x: Tensor, axis: int) -> Tensor:
    """The next place along an axis less this one; 0 at the last."""
    return x.diff(dim=axis, append=x.narrow(axis, x.shape[axis] - 1, 1))


def backward(x: Tensor, axis: int) -> Tensor:
    """This place less the one before it along an axis; 0 at the first."""
    return x.diff(dim=axis, prepend=x.narrow(axis, 0, 1))


def patches(picture: Tensor) -> Tensor:
    """The patch around each place of (1, C, S, S), (S * S, C * 49); 0 beyond the picture's edge."""
    return F.unfold(picture, PATCH, padding=RADIUS)[0].T.contiguous()


def paste(values: Tensor, weights: Tensor, at: Tensor, side: int) -> Tensor:
    """Weighted mean (1, C, S, S) of overlapping patches (T, C * 49), weights (T, 49), around the places `at` (T,)."""
    channels = values.shape[1] // PATCH**2
    columns = torch.cat((values * weights.repeat(1, channels), weights), 1)
    columns = columns.new_zeros(side * side, columns.shape[1]).index_copy(0, at, columns)
    total = F.fold(columns.T[None], (side, side), PATCH, padding=RADIUS)
    return total[:, :-1] / total[:, -1:].clamp_min(1e-8)


def most_alike(wanted: Tensor, weights: Tensor, sources: Tensor, seen: Tensor, distances: Tensor) -> Tensor:
    """Index (T,) of the patch among sources (N, K) that is most like each wanted one (T, K).

    Args:
        wanted: patches to be matched.
        weights: 1 for what is known of each, else 0, (T, K).
        sources: to choose from, 0 where not seen.
        seen: 1 for what is seen of each, else 0, (N, K).
        distances: from each to each, (T, N).
    """
    known = weights.sum(1, keepdim=True)
    squares = (weights * wanted.square()) @ seen.T - 2 * (weights * wanted) @ sources.T + weights @ sources.square().T
    unseen = known - weights @ seen.T
    costs = (squares + UNSEEN_COST * unseen) * (wanted.shape[1] / known.clamp_min(1))
    return (costs + DISTANCE_COST * distances).argmin(1)


def doubled(finer: Scale, picture: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """A filled picture and its source indices, brought to a scale of twice the side; seen places are that scale's."""
    side = picture.shape[-1]
    places = places_of(picture)
    moves = 2 * (places[source] - places).view(side, side, 2)
    moves = moves.repeat_interleave(2, 0).repeat_interleave(2, 1).view(-1, 2)
    index = within(places_of(finer.hole) + moves, 2 * side)
    return torch.lerp(finer.picture, upscale(picture, 2), finer.hole), index


def within(places: Tensor, side: int) -> Tensor:
    """Indices of rows and columns (N, 2), moved inside where they are not."""
    places = places.clamp(0, side - 1)
    return places[:, 0] * side + places[:, 1]


def taken(x: Tensor, source: Tensor) -> Tensor:
    """Values of (1, C, S, S) at the source of each place, source (S * S,)."""
    return x.flatten(2)[:, :, source].view_as(x)
