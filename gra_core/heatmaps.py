"""Numbers over the picture as colours."""

import numpy as np
from PIL import Image

MAP_SIDE = 256
"""Side of a map in pixels."""

_COLOURS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)
"""Black over violet and orange to pale yellow, even in lightness: also readable in grey and to the colour-blind."""


def heat_map(values: np.ndarray, brightest: float, side: int = MAP_SIDE) -> Image.Image:
    """Colour (H, W) values, 0 dark and `brightest` or more bright; each position stays a visible square."""
    level = np.clip(values / max(brightest, 1e-12), 0, 1)
    place = np.linspace(0, 1, len(_COLOURS))
    pixels = np.stack([np.interp(level, place, _COLOURS[:, channel]) for channel in range(3)], -1)
    return Image.fromarray(pixels.round().astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)


def flow_map(flow: np.ndarray, side: int = MAP_SIDE) -> Image.Image:
    """Colour a correspondence (2, H, W; x and y): hue is the direction, saturation the distance, white none.

    The longest distance is fully saturated.
    """
    x, y = flow
    distance = np.hypot(x, y)
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1
    saturation = distance / max(float(distance.max()), 1e-12)
    pixels = np.stack([hue * 255, saturation * 255, np.full_like(hue, 255)], -1).round().astype(np.uint8)
    return Image.fromarray(pixels, "HSV").convert("RGB").resize((side, side), Image.Resampling.NEAREST)
