"""Draws edits on the photo, at the photo's own size.

An edit is made at 1024 px. Drawn over the photo as it is, it would replace every pixel of the crop by a resampled one.
Here the photo stays, and only what the edit does to it is drawn:

    result = warp(photo) + R(edit - warp(crop)) - (1 - keep) * (warp(photo) - R(warp(crop)))

`warp` samples along the edit's flow, `R` resamples from the crop to the photo. The second term is the change that the
edit makes to what it moves. The last one takes away the photo's fine detail, which 1024 px do not hold, where the edit
shows something else (`keep` is 0 for new teeth, frames, wrinkles); noise makes up for lost grain. Where nothing moves
and nothing changes, the pixels are the photo's, bit by bit.

Beyond the crop the flow goes on and dies away (a membrane: it solves Laplace's equation), so that hair, necks and
collars that cross the edge stay whole; the change fades out before the edge.

Blending is in sRGB levels: the change is a difference of levels, and no seam showed that linear light would hide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from gra_core.alignment import AlignedFace, Face, area, crop_at, crop_to_photo, shared_area
from gra_core.constants import IMAGE_SIZE
from gra_core.images import Photo, as_rgb, image_to_tensor
from gra_core.models.maps import box_filter, dilate, linstep, magnitude, sample

SIDE = 128
"""Positions along the crop's side at which flow and masks are kept."""
BEYOND = 43
"""Positions beyond the crop, a third of its side, over which the flow dies away."""
FADE = 0.1
"""Share of the crop's side, at its edge, over which the change fades out."""
WIDE = SIDE + 2 * BEYOND
"""Positions along the side of the square that an edit may reach: the wide grid."""
STILL = (0.15, 0.6)
"""Pixels of 1024 up to which a place counts as still, and from which on it moves as the flow says."""
SAME = (3.0, 6.0)
"""Levels up to which a change counts as none, and from which on it is drawn whole."""
SAME_WINDOW = 5
"""Side of the squares, in pixels, whose mean change counts: grain that an edit redraws is no change."""
SAME_MARGIN = 2
"""Pixels of 1024 around a change that count as changed."""
FREE = 0.3
"""Of the longer side of somebody else's face box: distance over which an edit ends before it."""
TILE = 256
"""Side of the tiles, in photo pixels, in which the result is drawn: memory does not grow with the photo."""
GRAIN_PLACES, GRAIN_TILE = 24, 32
"""Places at which grain is measured, and their side in photo pixels."""
LEAST_GRAIN = 0.5
"""Levels of grain below which none is added."""


@dataclass(frozen=True, eq=False)
class EditOutput:
    """Result of an edit of an aligned face.

    Attributes:
        image: RGB, 1024 x 1024.
        flow: float32 (S, S, 2), x and y: where each place comes from, minus the place, in shares of the crop's side.
        keep: float32 (K, K), 0 to 1: how far the photo's own detail, moved by the flow, holds at each place.
    """

    image: Image.Image
    flow: np.ndarray
    keep: np.ndarray


@dataclass(frozen=True, eq=False)
class View:
    """A photo as it is shown: whole at its own size, smaller, or one face of it close up.

    Attributes:
        picture: what is shown of the photo, RGB.
        from_photo: 3x3 matrix that takes points of the photo to points of the picture.
    """

    picture: Image.Image
    from_photo: np.ndarray

    @classmethod
    def whole(cls, photo: Image.Image, longest: int | None = None) -> View:
        """All of a photo, reduced to `longest` pixels along its longer side where it is larger."""
        picture, factor = as_rgb(photo), 1.0 if longest is None else longest / max(photo.size)
        if factor < 1:
            size = tuple(max(1, round(side * factor)) for side in photo.size)
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        scale = np.array(picture.size) / photo.size
        return cls(picture, np.diag([*scale, 1.0]))

    @classmethod
    def close_up(cls, photo: Image.Image, aligned: AlignedFace, side: int | None = None) -> View:
        """The square around one face of a photo, upright; of `side` pixels, by default of `close_up_side`."""
        side = side or close_up_side(aligned)
        picture = aligned.image if side == IMAGE_SIZE else crop_at(photo, aligned.quad, side)
        return cls(picture, np.diag([side, side, 1.0]) @ np.linalg.inv(crop_to_photo(aligned.quad)))


def close_up_side(aligned: AlignedFace) -> int:
    """Side of a face's square in pixels of its photo, at least IMAGE_SIZE: its edit is made at that size."""
    return max(IMAGE_SIZE, round(aligned.side))


def compose(
    photo: Image.Image | View, edits: Sequence[tuple[AlignedFace, EditOutput]], faces: Sequence[Face] = ()
) -> Image.Image:
    """Draw edits of faces on the photo that they were cut from.

    All edits are drawn at once from the photo as it is, so that their order changes nothing.

    Args:
        photo: the RGB photo that was aligned, or a view of it.
        edits: edited faces.
        faces: everybody found in the photo, in its pixels. The boxes of others are left as they are by an edit.

    Returns:
        A new RGB picture of the size of the photo, or of the view.
    """
    view = photo if isinstance(photo, View) else View.whole(photo)
    result = view.picture.copy()
    source = _Source(result)
    faces = [face.moved(view.from_photo) for face in faces]
    edits = sorted(edits, key=lambda edit: edit[0].quad.tolist())
    layers = [_Layer(source, aligned.moved(view.from_photo), output, faces) for aligned, output in edits]
    layers = [layer for layer in layers if layer.draws]

    def draw(tile: tuple[int, int, int, int]) -> None:
        drawn = _draw(source, layers, tile)
        if drawn is not None:
            result.paste(drawn, tile[:2])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(draw, _tiles(layers, result.size)))
    return result


def draw_result(
    photo: Photo, aligned: AlignedFace, output: EditOutput, faces: Sequence[Face], *, whole_photo: bool
) -> Image.Image:
    """One edited face as it is kept: on the whole photo, with its transparency, or in the square around the face."""
    if whole_photo:
        return photo.transparent(compose(photo.image, [(aligned, output)], faces))
    return compose(View.close_up(photo.image, aligned), [(aligned, output)], faces)


class _Source:
    """A copy of a photo, from which tiles are sampled."""

    def __init__(self, photo: Image.Image) -> None:
        self.pixels = np.array(photo)

    def part(self, left: int, top: int, right: int, bottom: int) -> Tensor:
        """A part of the photo, (1, 3, H, W) in levels."""
        part = np.ascontiguousarray(self.pixels[top:bottom, left:right])
        return torch.from_numpy(part).permute(2, 0, 1)[None].float()

    def warp(self, where: Tensor) -> Tensor:
        """Sample at positions (H + 2, W + 2, 2) in photo pixels -> (1, 3, H, W) in levels, without the outermost ones.

        Bicubic, edges reflected. Bicubic interpolation damps noise between pixels. The finest detail is raised by as
        much, so that the grain of what moves is as strong as beside it.
        """
        height, width = self.pixels.shape[:2]
        margin = 3
        low = where.amin((0, 1)).floor().long().sub(margin).tolist()
        high = where.amax((0, 1)).ceil().long().add(margin).tolist()
        x0, y0 = max(low[0], 0), max(low[1], 0)
        x1, y1 = min(max(high[0], x0 + 4), width), min(max(high[1], y0 + 4), height)
        x0, y0 = min(x0, x1 - 1), min(y0, y1 - 1)
        size = torch.tensor([x1 - x0, y1 - y0], dtype=torch.float32)
        grid = 2 * (where - torch.tensor([x0, y0])) / size - 1
        patch = self.part(x0, y0, x1, y1)
        warped = F.grid_sample(patch, grid[None], "bicubic", "reflection", align_corners=False)
        return torch.addcmul(_inner(warped), _finest(warped), 1 / _noise_gain(where[1:-1, 1:-1]) - 1)


class _Layer:
    """One edited face, as maps around its crop."""

    def __init__(self, source: _Source, aligned: AlignedFace, output: EditOutput, faces: Sequence[Face]) -> None:
        self.aligned = aligned
        to_photo = crop_to_photo(aligned.quad)
        self.linear = torch.tensor(to_photo[:2, :2], dtype=torch.float32)
        self.corner = torch.tensor(aligned.quad[0], dtype=torch.float32)
        self.to_crop = torch.tensor(np.linalg.inv(to_photo)[:2], dtype=torch.float32)
        size = min(IMAGE_SIZE, max(SIDE, round(aligned.side)))
        scale = size / IMAGE_SIZE
        crop, edited = (
            _resized(image_to_tensor(image), size).add(1).mul(127.5) for image in (aligned.image, output.image)
        )
        free = self._free(faces)
        flow = _moving(free * _beyond(_moving(_resized(_map(output.flow), SIDE)), _inside(SIDE)))
        inner = slice(BEYOND, BEYOND + SIDE)
        inner_flow = _resized(flow[..., inner, inner], size)[0].permute(1, 2, 0)
        moved = _sample(crop, _places(0, 0, size, size) / size + inner_flow)
        change = edited - moved
        margin = max(1, round(SAME_MARGIN * scale))
        shown = dilate(box_filter(change, SAME_WINDOW).abs().amax(1, keepdim=True), margin)
        shown = box_filter(linstep(shown, *SAME), 2 * margin + 1) * _inside(size)
        shown = shown * _resized(free[..., inner, inner], size)
        keep = _resized(_map(output.keep[..., None]), size)
        lost = shown * (1 - keep)
        self.layers = torch.cat((change * shown + lost * moved, lost, shown), 1)
        coarse = F.pad(F.adaptive_max_pool2d(shown, SIDE), (BEYOND,) * 4)
        self.wide = torch.cat((torch.einsum("xy,byhw->bxhw", self.linear, flow), coarse), 1)
        self.grain = self._grain(source, edited, lost) if (lost > 0.1).any() else None

    @property
    def draws(self) -> bool:
        """Whether anything is to be drawn at all."""
        return bool(self.wide.any())

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of all that it may change, in photo pixels."""
        some = self.wide[0].any(0)
        rows, columns = (torch.nonzero(some.any(axis)).flatten() for axis in (1, 0))
        u = (torch.tensor([columns[0], columns[-1] + 1]) - BEYOND - 1) / SIDE + torch.tensor([0, 2 / SIDE])
        v = (torch.tensor([rows[0], rows[-1] + 1]) - BEYOND - 1) / SIDE + torch.tensor([0, 2 / SIDE])
        corners = torch.cartesian_prod(u, v).T
        points = self.linear @ corners + self.corner[:, None]
        return (*points.amin(1).tolist(), *points.amax(1).tolist())

    def at(self, places: Tensor) -> Tensor:
        """Positions (H, W, 2) in photo pixels -> in shares of the crop's side."""
        return places @ self.to_crop[:, :2].T + self.to_crop[:, 2]

    def _free(self, faces: Sequence[Face]) -> Tensor:
        """How far the edit may reach, 0 to 1, on the wide grid: not to other faces."""
        grid = (_places(0, 0, WIDE, WIDE) - BEYOND) / SIDE
        places = grid @ self.linear.T + self.corner
        free = torch.ones(WIDE, WIDE)
        own = self.aligned.face.box
        cell = 1.5 * self.aligned.side / SIDE
        for face in faces:
            if _overlap(face.box, own) > 0.5:
                continue
            left, top, right, bottom = face.box
            x, y = places.unbind(-1)
            away_x = torch.maximum(left - x, x - right).clamp_min(0)
            away_y = torch.maximum(top - y, y - bottom).clamp_min(0)
            away = torch.hypot(away_x, away_y) - cell
            free = torch.minimum(free, _smooth(away / (FREE * max(right - left, bottom - top))))
        return free[None, None]

    def _grain(self, source: _Source, edited: Tensor, lost: Tensor) -> tuple[Tensor, Tensor] | None:
        """Variance of the grain that the photo has, and of what the edit has of it where it shows something else.

        In square levels, (3, 1, 1) each; None where the edit has as much.

        The smooth ones of many small places tell: the others have more detail than grain.
        """
        generator = np.random.default_rng(0)
        lost = F.adaptive_avg_pool2d(lost, GRAIN_TILE)[0, 0]
        new = torch.nonzero(lost >= lost.max() / 2).numpy()[:, ::-1]
        new = (generator.permutation(new)[:GRAIN_PLACES] + 0.5) / GRAIN_TILE
        had = self._variances(generator.uniform(0.1, 0.9, (GRAIN_PLACES, 2)), source.pixels.shape, source.warp)
        has = self._variances(new, source.pixels.shape, lambda places: _sample(edited, self.at(places)))
        if had is None or has is None:
            return None
        had, has = (variance[:, None, None] / _finest(_noise()).var() for variance in (had, torch.minimum(had, has)))
        return (had, has) if (had - has > LEAST_GRAIN**2).any() else None

    def _variances(
        self, centres: np.ndarray, shape: tuple[int, ...], picture: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Variance of the finest detail (3,) in the smoother ones of small places of a picture, or None.

        Args:
            centres: of the places, in shares of the crop's side, (N, 2).
            shape: height and width of the photo.
            picture: (1, 3, H, W) at positions (H, W, 2) in photo pixels.
        """
        found = []
        for centre in centres:
            left, top = (self.linear @ torch.tensor(centre).float() + self.corner).round().sub(GRAIN_TILE // 2).tolist()
            if 0 <= left < shape[1] - GRAIN_TILE and 0 <= top < shape[0] - GRAIN_TILE:
                places = _places(int(left), int(top), int(left) + GRAIN_TILE, int(top) + GRAIN_TILE)
                found.append(_finest(picture(places)).var((0, 2, 3)))
        return torch.stack(found).quantile(0.25, 0) if found else None


def _draw(source: _Source, layers: Sequence[_Layer], tile: tuple[int, int, int, int]) -> Image.Image | None:
    """One tile of the result; None where it is the photo's."""
    left, top, right, bottom = tile
    places = _places(left - 1, top - 1, right + 1, bottom + 1)  # one more all round, for `warp`
    offset, change, lacking = torch.zeros_like(places), 0.0, []
    touched = torch.zeros(bottom - top, right - left, dtype=torch.bool)
    for layer in layers:
        where = layer.at(places)
        *step, some = _sample(layer.wide, (where * SIDE + BEYOND) / WIDE, "bilinear")[0]
        step = torch.stack(step, -1)
        moves = step[1:-1, 1:-1].any(-1)
        if not moves.any() and not some.any():
            continue
        offset += step
        touched |= moves
        if not some.any():
            continue
        where = where[1:-1, 1:-1]
        values = _sample(layer.layers, where, "bilinear")
        values *= ((where >= 0) & (where <= 1)).all(-1)
        part, lost, shown = values.split((3, 1, 1), 1)
        change = change + part
        touched |= shown[0, 0] > 0
        if lost.any():
            lacking.append((step, lost))
            if layer.grain is not None:
                change += _missing_noise(lost, *layer.grain) * _noise()[..., : bottom - top, : right - left]
    if not touched.any():
        return None

    def moved(step: Tensor) -> Tensor:
        return source.warp(places + step) if step.any() else source.part(*tile)

    warped = moved(offset)
    drawn = warped + change
    for step, lost in lacking:
        own = warped if len(layers) == 1 or torch.equal(step, offset) else moved(step)
        drawn -= lost * own
    drawn = drawn[0].permute(1, 2, 0).round_().clamp_(0, 255).to(torch.uint8).numpy()
    before = source.pixels[top:bottom, left:right]
    return Image.fromarray(np.where(touched.numpy()[..., None], drawn, before))


def _tiles(layers: Sequence[_Layer], size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The tiles of a photo that an edit may change."""
    found = set()
    for layer in layers:
        left, top, right, bottom = layer.bounds
        for y in range(max(0, int(top // TILE) * TILE), min(size[1], int(bottom) + 1), TILE):
            for x in range(max(0, int(left // TILE) * TILE), min(size[0], int(right) + 1), TILE):
                found.add((x, y, min(x + TILE, size[0]), min(y + TILE, size[1])))
    return sorted(found)


def _beyond(flow: Tensor, inside: Tensor) -> Tensor:
    """A flow (1, 2, SIDE, SIDE) on the wide grid: smooth near the crop's edge, dying away beyond it.

    Near the edge what moves carries what it uncovers along: there is no picture of the edit to cover that with.
    """
    weight = magnitude(flow) + 1e-4
    carried = box_filter(flow * weight, 15) / box_filter(weight, 15)
    wide = F.pad(torch.lerp(carried, flow, inside), (BEYOND,) * 4)
    membrane, known, unknown, border = _membrane()
    values = wide.flatten(2)[0].T.double().numpy()
    values[unknown] = membrane.solve(border @ values[known])
    return torch.from_numpy(values.T.reshape(1, 2, WIDE, WIDE)).float()


@cache
def _membrane() -> tuple[SuperLU, np.ndarray, np.ndarray, coo_array]:
    """Laplace's equation between the crop and the edge of the wide grid, factorised.

    Returns:
        The factors; which cells are known (the crop, and zeros at the edge) and which are not; what takes the known
        cells' values to the right side.
    """
    cells = np.arange(WIDE * WIDE).reshape(WIDE, WIDE)
    ring = np.zeros((WIDE, WIDE), bool)
    ring[1:-1, 1:-1] = True
    ring[BEYOND : BEYOND + SIDE, BEYOND : BEYOND + SIDE] = False
    known, unknown = np.flatnonzero(~ring), np.flatnonzero(ring)
    pairs = [
        (cells[:, 1:], cells[:, :-1]),
        (cells[:, :-1], cells[:, 1:]),
        (cells[1:], cells[:-1]),
        (cells[:-1], cells[1:]),
    ]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    neighbours = coo_array((np.ones(len(one)), (one, other)), (WIDE * WIDE,) * 2).tocsr()[unknown]
    laplacian = 4 * coo_array((np.ones(len(unknown)), (np.arange(len(unknown)),) * 2)).tocsc() - neighbours[:, unknown]
    return splu(laplacian.tocsc()), known, unknown, neighbours[:, known]


@cache
def _noise() -> Tensor:
    """White noise for one tile, (1, 3, TILE, TILE); all tiles have the same, which nobody sees."""
    return torch.randn(1, 3, TILE, TILE, generator=torch.Generator().manual_seed(0))


def _missing_noise(lost: Tensor, had: Tensor, has: Tensor) -> Tensor:
    """Standard deviation, in levels, of the noise that keeps grain as strong as it was.

    Grain of which shares of 1 - `lost` and of `lost` come from two independent pictures is weaker than that of either.

    Args:
        lost: share that the edit has of a place, 0 to 1, (1, 1, H, W).
        had: variance of the photo's grain, (3, 1, 1).
        has: variance of the edit's.
    """
    return (had - (1 - lost).square() * had - lost.square() * has).clamp_min(0).sqrt()


def _noise_gain(where: Tensor) -> Tensor:
    """By how much bicubic interpolation at positions (H, W, 2) changes the strength of white noise, (H, W).

    That is the norm of the weights, those of Keys' kernel with PyTorch's constant of -3/4
    (https://doi.org/10.1109/TASSP.1981.1163711): the sum of their squares at a distance f from the pixel before is a
    polynomial in f (1 - f).
    """
    after = (where - 0.5) % 1
    between = after - after.square()
    return (1 - between.square() * (3.375 + 4.25 * between)).prod(-1).sqrt()


def _finest(picture: Tensor) -> Tensor:
    """Differences (B, C, H, W) of pixels to the mean of 3 x 3, of a picture (B, C, H + 2, W + 2)."""
    rows = picture[..., :-2, :] + picture[..., 1:-1, :] + picture[..., 2:, :]
    return _inner(picture) - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _inner(maps: Tensor) -> Tensor:
    """Maps (B, C, H + 2, W + 2) without what is outermost."""
    return maps[..., 1:-1, 1:-1]


def _moving(flow: Tensor) -> Tensor:
    """A flow (1, 2, S, S), in shares of the crop's side, without what hardly moves."""
    return flow * linstep(IMAGE_SIZE * magnitude(flow), *STILL)


def _map(values: np.ndarray) -> Tensor:
    """(S, S, C) -> (1, C, S, S), float32."""
    return torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None].float()


def _resized(maps: Tensor, size: int) -> Tensor:
    """Maps (1, C, S, S) at another size, bilinear; smaller ones are means."""
    if size == maps.shape[-1]:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", antialias=size < maps.shape[-1], align_corners=False)


def _inside(side: int) -> Tensor:
    """0 at the crop's edge, 1 from FADE of its side inwards, (1, 1, side, side)."""
    steps = (torch.arange(side) + 0.5) / side
    one = _smooth(torch.minimum(steps, 1 - steps) / FADE)
    return (one[:, None] * one[None])[None, None]


def _smooth(x: Tensor) -> Tensor:
    """Smoothstep from 0 at 0 to 1 at 1."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _sample(maps: Tensor, where: Tensor, mode: str = "bicubic") -> Tensor:
    """Maps (1, C, S, S) at positions (H, W, 2) in shares of their side -> (1, C, H, W); edges repeated."""
    return sample(maps, (2 * where - 1)[None], mode)


def _places(left: int, top: int, right: int, bottom: int) -> Tensor:
    """Centres of pixels, (bottom - top, right - left, 2)."""
    x, y = (torch.arange(first, last, dtype=torch.float32) + 0.5 for first, last in ((left, right), (top, bottom)))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Shared area of two boxes over all area."""
    shared = shared_area(one, other)
    return shared / max(area(one) + area(other) - shared, 1)
