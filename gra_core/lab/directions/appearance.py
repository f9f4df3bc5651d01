"""Measures of a face that are colour and texture of pixels in regions that landmarks mark out.

Colours are CIE L*a*b* (D65): L* from 0, black, to 100, white; a* from green to red; b* from blue to yellow. Every
measure takes a `Portrait` and gives a number. "Left" and "right" are those of the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_TO_XYZ = np.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)),
    np.float32,
)
"""Linear sRGB to XYZ, IEC 61966-2-1."""
_WHITE = np.array((0.95047, 1.0, 1.08883), np.float32)
_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)

COVERED = 40.0
"""Colour difference to the skin at which a pixel of the forehead counts as fully covered by hair."""

SIMILAR = 18.0
"""Colour difference to the hair up to which a pixel beside the neck counts as hair."""


def rgb_to_lab(pixels: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) uint8 -> CIE L*a*b* (..., 3) float32, white point D65."""
    xyz = (_LINEAR[pixels] @ _TO_XYZ.T) / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


@dataclass(frozen=True, eq=False)
class Portrait:
    """One aligned face.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        points: (68, 2) landmarks in pixels.
    """

    pixels: np.ndarray
    points: np.ndarray

    @cached_property
    def lab(self) -> np.ndarray:
        """(H, W, 3) float32 L*a*b*."""
        return rgb_to_lab(self.pixels)

    @cached_property
    def unit(self) -> float:
        """Distance between the centres of the eyes, in pixels."""
        return max(float(np.linalg.norm(self.points[42:48].mean(0) - self.points[36:42].mean(0))), 1.0)

    @cached_property
    def cheeks(self) -> tuple[np.ndarray, np.ndarray]:
        """Median colours (3,) of the left and the right cheek."""
        return self._cheek(31, -1), self._cheek(35, 1)

    @cached_property
    def skin(self) -> np.ndarray:
        """Median colour (3,) of both cheeks."""
        return (self.cheeks[0] + self.cheeks[1]) / 2

    @cached_property
    def hair(self) -> np.ndarray:
        """Median colour (3,) of the band over the forehead, where hair is (if there is any)."""
        return np.median(self.box(*self._above(-0.4, 1.2, 0.4, 0.95)).reshape(-1, 3), axis=0)

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        """Colours (h, w, 3) in a rectangle, cut at the picture's edge, at least one pixel."""
        return _cut(self.lab, left, top, right, bottom)

    def inside(self, *polygons: slice | list[int]) -> np.ndarray:
        """Mask (H, W) of pixels inside polygons of landmarks, those of later ones cut out of the first."""
        mask = Image.new("1", (self.pixels.shape[1], self.pixels.shape[0]))
        draw = ImageDraw.Draw(mask)
        for value, polygon in zip((1, *[0] * len(polygons)), polygons, strict=False):
            draw.polygon([tuple(p) for p in self.points[polygon].tolist()], fill=value)
        return np.asarray(mask)

    def _above(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        """A rectangle over the brows: x from the nose's root, heights over the brows, in eye distances."""
        x, y = self.points[27, 0], self.points[17:27, 1].mean()
        return x + left * self.unit, y - top * self.unit, x + right * self.unit, y - bottom * self.unit

    def _cheek(self, nostril: int, side: int) -> np.ndarray:
        centre = self.points[nostril] + (side * 0.28 * self.unit, -0.02 * self.unit)
        patch = self.box(*(centre - 0.1 * self.unit), *(centre + 0.1 * self.unit))
        return np.median(patch.reshape(-1, 3), axis=0)


def _cut(values: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The part of (H, W, ...) in a rectangle, cut at the edge, at least one pixel."""
    height, width = values.shape[:2]
    y, x = (int(np.clip(v, 0, limit - 1)) for v, limit in ((top, height), (left, width)))
    return values[y : max(int(bottom), y + 1), x : max(int(right), x + 1)]


def lens_tint(face: Portrait) -> float:
    """Log of cheek luminance over luminance around and below the eyes: near 0 for skin, above 0.5 for sunglasses."""
    gray, logs = face.pixels.mean(2), []
    for eye, nostril, side in ((slice(36, 42), 31, -1), (slice(42, 48), 35, 1)):
        (x, y), half = face.points[eye].mean(0), 0.55 * float(np.ptp(face.points[eye, 0]))
        cheek = face.points[nostril] + (side * 0.28 * face.unit, -0.02 * face.unit)
        lens = _median(gray, x - half, y - 0.1 * half, x + half, y + 1.3 * half)
        skin = _median(gray, *(cheek - 0.1 * face.unit), *(cheek + 0.1 * face.unit))
        logs.append(np.log((skin + 8) / (lens + 8)))
    return float(np.mean(logs))


def _median(gray: np.ndarray, left: float, top: float, right: float, bottom: float) -> float:
    return float(np.median(_cut(gray, left, top, right + 1, bottom + 1)))


def skin_light(face: Portrait) -> float:
    """L* of the cheeks."""
    return float(face.skin[0])


def skin_red(face: Portrait) -> float:
    """a* of the cheeks: how rosy the skin is."""
    return float(face.skin[1])


def light_side(face: Portrait) -> float:
    """L* of the right cheek less that of the left one: + lit from the right."""
    left, right = face.cheeks
    return float(right[0] - left[0])


def skin_texture(face: Portrait) -> float:
    """Logarithm of the fine contrast of the face between eyes and chin, eyes, nose and mouth left out, in L*."""
    blurred = Image.fromarray(face.pixels).convert("L").filter(ImageFilter.GaussianBlur(2))
    fine = np.abs(face.pixels.mean(2) - np.asarray(blurred, np.float32))
    values = []
    for nostril, side in ((31, -1), (35, 1)):
        x, y = face.points[nostril] + (side * 0.3 * face.unit, 0.0)
        half = 0.17 * face.unit
        values.append(_cut(fine, x - half, y - half, x + half, y + half).mean())
    return float(np.log(np.mean(values) + 0.2))


def warmth(face: Portrait) -> float:
    """Mean b* of the whole picture."""
    return float(face.lab[..., 2].mean())


def background_light(face: Portrait) -> float:
    """L* of the upper corners of the picture."""
    width = face.lab.shape[1]
    strip, height = width // 9, width // 3
    corners = (face.lab[:height, :strip, 0], face.lab[:height, -strip:, 0])
    return float(np.mean([np.median(corner) for corner in corners]))


def lip_red(face: Portrait) -> float:
    """a* of the lips less that of the cheeks."""
    lips = face.lab[..., 1][face.inside(slice(48, 60), slice(60, 68))]
    return float((lips.mean() if lips.size else face.skin[1]) - face.skin[1])


def beard(face: Portrait) -> float:
    """L* of the cheeks less that of chin and upper lip: + dark there."""
    points, unit = face.points, face.unit
    (x, lip), tip = points[57], points[8, 1]
    chin = face.box(x - 0.28 * unit, lip + 0.35 * (tip - lip), x + 0.28 * unit, tip - 0.05 * unit)
    nose, mouth = points[33, 1], points[51, 1]
    above = face.box(points[50, 0], nose + 0.35 * (mouth - nose), points[52, 0], mouth - 0.1 * (mouth - nose))
    return float(face.skin[0] - (2 * np.median(chin[..., 0]) + np.median(above[..., 0])) / 3)


def brow_dark(face: Portrait) -> float:
    """L* of the cheeks less that of the brows: + dark, full brows."""
    values = []
    for first, last in ((17, 21), (22, 26)):
        for k in range(first, last):
            x, y = (face.points[k] + face.points[k + 1]) / 2
            half = 0.05 * face.unit
            values.append(face.box(x - half, y - half, x + half, y + half)[..., 0].mean())
    return float(face.skin[0] - np.mean(values))


def eye_blue(face: Portrait) -> float:
    """b* of the cheeks less that of the middle of the eyes, where the iris is: + blue or grey, - brown eyes."""
    values = []
    for eye in (slice(36, 42), slice(42, 48)):
        (x, y), width = face.points[eye].mean(0), float(np.ptp(face.points[eye, 0]))
        values.append(
            np.median(face.box(x - 0.22 * width, y - 0.1 * width, x + 0.22 * width, y + 0.14 * width)[..., 2])
        )
    return float(face.skin[2] - np.mean(values))


def gaze(face: Portrait) -> float:
    """Where the irises are between the eye corners, -1 to 1: + looks towards the picture's right, mean of both eyes.

    The middle of the darker pixels inside the lids, weighted by the square of how much darker they are.
    """
    values = []
    for eye in (slice(36, 42), slice(42, 48)):
        y, x = np.nonzero(face.inside(eye))
        corners = face.points[eye][[0, 3]]
        axis = corners[1] - corners[0]
        if not len(x) or not axis.any():
            continue
        light = face.lab[y, x, 0]
        dark = np.maximum(np.percentile(light, 60) - light, 0) ** 2
        along = (np.stack([x, y], 1) - corners.mean(0)) @ axis / (axis @ axis) * 2
        values.append(float(dark @ along / max(dark.sum(), 1e-6)))
    return float(np.mean(values)) if values else 0.0


def hair_light(face: Portrait) -> float:
    """L* of the hair over the forehead."""
    return float(face.hair[0])


def hair_grey(face: Portrait) -> float:
    """L* of the hair over the forehead, weighted down by its colourfulness: high for grey and white hair only."""
    return float(face.hair[0] * np.exp(-np.hypot(face.hair[1], face.hair[2]) / 10))


def hair_red(face: Portrait) -> float:
    """a* of the hair over the forehead: high for red hair."""
    return float(face.hair[1])


def fringe(face: Portrait) -> float:
    """Share of the forehead, 0 to 1, that differs in colour from the cheeks as hair does."""
    forehead = face.box(*face._above(-0.5, 0.5, 0.5, 0.2))
    difference = np.linalg.norm(forehead - face.skin, axis=-1)
    return float(np.minimum(difference / COVERED, 1).mean())


def hair_length(face: Portrait) -> float:
    """Share of the area beside jaw and neck, 0 to 1, that has the colour of the hair over the forehead."""
    points, unit = face.points, face.unit
    top, bottom = points[[4, 12], 1].mean(), points[8, 1] + 0.35 * unit
    left, right = points[3, 0], points[13, 0]
    sides = [face.box(left - 0.45 * unit, top, left - 0.02 * unit, bottom)]
    sides.append(face.box(right + 0.02 * unit, top, right + 0.45 * unit, bottom))
    distances = [np.linalg.norm(side - face.hair, axis=-1) for side in sides]
    return float(np.mean([np.exp(-((d / SIMILAR) ** 2)).mean() for d in distances]))


APPEARANCE: dict[str, Callable[[Portrait], float]] = {
    measure.__name__: measure
    for measure in (
        lens_tint,
        skin_light,
        skin_red,
        light_side,
        skin_texture,
        warmth,
        background_light,
        lip_red,
        beard,
        brow_dark,
        eye_blue,
        gaze,
        hair_light,
        hair_grey,
        hair_red,
        fringe,
        hair_length,
    )
}
"""All measures of this module by name."""
