"""Robustness: how well pictures of one kind are inverted, compared with all of them.

Kinds are what a picture shows (children, old people, heads that are turned, skin tones) and what may have happened to
it (no colour, a colour cast, few pixels, something before the face, a crop that is askew).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from gra_core.constants import IMAGE_SIZE
from gra_core.images import image_to_tensor
from gra_core.lab.evaluation.summary import figure_text, markdown_rows, summarize_entries
from gra_core.lab.evaluation.workers import EvaluationContext, Workers
from gra_core.metrics.pixels import METRIC_SIZE, resize

TILT = 12
"""Degrees."""
LOW_RESOLUTION = 96
"""Pixels a side that are left."""
CAST = {"warm cast": (1.25, 1.0, 0.65), "cold cast": (0.7, 0.95, 1.3)}
"""Factors of red, green and blue."""

CHILD, OLD = 16, 60
"""Years, up to which and from which on."""
TURNED = 20
"""Degrees of yaw."""

CHEEKS = ((0.30, 0.55, 0.38, 0.63), (0.62, 0.55, 0.70, 0.63))
"""Left, top, right, bottom of patches of skin in an aligned face, as parts of its side."""
LIGHT_SKIN, DARK_SKIN = 41, 10
"""Individual typology angle in degrees, from which on skin counts as light and up to which as dark (Chardon 1991)."""

ALL = "all unaltered"
WORST_RATIO = 1.5
ROUNDING = 1e-5
"""A difference of LPIPS that means nothing."""

STEPS = {"low_rate": "code", "features": "before the pixels", "gra": "no edit"}
"""Steps of an inversion that are measured, and their titles: the picture of the code alone, the Editing Stream's
without the pixel residual, and the result without an edit."""


def _cast(factors: tuple[float, float, float]) -> Callable[[Image.Image], Image.Image]:
    matrix = [v for row in np.diag(factors) for v in (*row, 0)]
    return lambda picture: picture.convert("RGB", matrix)


def _cover(picture: Image.Image) -> Image.Image:
    """A striped scarf before mouth and chin."""
    picture, side = picture.copy(), picture.width
    draw = ImageDraw.Draw(picture)
    for i in range(12):
        top = (0.66 + 0.03 * i) * side
        draw.rectangle((0.12 * side, top, 0.88 * side, top + 0.03 * side), fill=((170, 40, 50), (225, 215, 190))[i % 2])
    return picture


def _coarsen(picture: Image.Image) -> Image.Image:
    small = picture.resize((LOW_RESOLUTION, LOW_RESOLUTION), Image.Resampling.BOX)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "no colour": lambda picture: ImageOps.grayscale(picture).convert("RGB"),
    **{name: _cast(factors) for name, factors in CAST.items()},
    f"{LOW_RESOLUTION} px": _coarsen,
    "mouth covered": _cover,
    "askew": lambda picture: picture.rotate(TILT, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)),
}


def typology_angle(picture: Image.Image) -> float:
    """Individual typology angle of the cheeks in degrees: atan((L - 50) / b) in CIELAB; larger is lighter."""
    side = picture.width
    patches = [np.asarray(picture.crop(tuple(int(v * side) for v in box))).reshape(-1, 3) for box in CHEEKS]
    rgb = np.median(np.concatenate(patches), axis=0) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y, z = np.array([[0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    y, z = np.cbrt(np.maximum((y, z / 1.089), 0.008856))
    return float(np.degrees(np.arctan2(116 * y - 16 - 50, 200 * (y - z))))


def groups_of(picture: Image.Image, scores: Mapping[str, float]) -> list[str]:
    """Names of the groups that an unaltered portrait is in."""
    angle = typology_angle(picture)
    tone = "light" if angle > LIGHT_SKIN else "dark" if angle < DARK_SKIN else "medium"
    names = [ALL, f"{tone} skin"]
    names += [f"up to {CHILD} years"] if scores["age"] <= CHILD else []
    names += [f"from {OLD} years"] if scores["age"] >= OLD else []
    names += [f"turned by {TURNED} degrees or more"] if abs(scores["yaw"]) >= TURNED else []
    return names


def measure_groups(
    workers: Workers, show: Callable[[EvaluationContext, Any], Image.Image], items: Iterable
) -> dict[str, dict]:
    """LPIPS at 256 px between picture and each of `STEPS` of its inversion by group: n, mean, median, ci95.

    `show` makes of each item an aligned face, RGB; other sizes than 1024 px are resized.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for distances in workers.map(partial(_measure_groups, show), items):
        for name, distance in distances:
            found.setdefault(name, []).append(distance)
    return {name: summarize_entries(values) for name, values in found.items()}


@torch.inference_mode()
def _measure_groups(
    show: Callable[[EvaluationContext, Any], Image.Image], context: EvaluationContext, item: object
) -> list[tuple[str, dict[str, float]]]:
    """LPIPS of one portrait, as it is and altered, with the name of each group that the picture is in."""
    lpips, editor = context.lpips, context.editor
    device = lpips.shift.device
    found = []

    def small(picture: Image.Image) -> Tensor:
        return resize(image_to_tensor(picture).to(device), METRIC_SIZE)

    def measure(picture: Image.Image, names: Sequence[str]) -> None:
        inversion = editor.invert(picture)
        steps = (
            small(editor.low_rate(inversion)),
            resize(inversion.source.image.to(device), METRIC_SIZE).clamp(-1, 1),
            small(editor.edit(inversion, {})),
        )
        target = small(picture)
        distances = {name: lpips(step, target).item() for name, step in zip(STEPS, steps, strict=True)}
        found.extend((name, distances) for name in names)

    picture = show(context, item).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    measure(picture, groups_of(picture, context.meter.scores(picture)))
    for name, alter in ALTERATIONS.items():
        measure(alter(picture), [name])
    return found


def groups_table(groups: Mapping[str, Mapping[str, dict]]) -> str:
    """Markdown table of `measure_groups` for several sets of portraits, {set: groups}; * marks too large a figure."""
    names = dict.fromkeys(name for figures in groups.values() for name in figures)
    rows = [["group", *(f"{title}: {step}" for title in groups for step in ("n", *STEPS.values()))]]
    for name in names:
        cells = []
        for figures in groups.values():
            steps = figures.get(name, {step: {"n": 0} for step in STEPS})
            cells.append(str(next(iter(steps.values()))["n"]))
            for step, figure in steps.items():
                bad = figure["n"] and figure["mean"] > WORST_RATIO * figures[ALL][step]["mean"] + ROUNDING
                cells.append(figure_text(figure, 4) + "*" * bool(bad))
        rows.append([name, *cells])
    line = (
        f"LPIPS {METRIC_SIZE} px to the picture, by group; * is more than {WORST_RATIO:g} times that of all unaltered."
    )
    return "\n".join([line, "", *markdown_rows(rows)]) + "\n"
