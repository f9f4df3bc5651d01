"""A comparison as one picture to keep, with the settings printed on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from gra_core.export import PROGRAM

if TYPE_CHECKING:
    from gra_core.comparison import Comparison

SIDE, MAP_SIDE, GAP = 360, 170, 12
TITLE_HEIGHT, CAPTION_HEIGHT = 64, 66
PAPER, INK, PALE = "white", (30, 28, 26), (93, 87, 80)

FIGURES = {"lpips": ("LPIPS", "{:.3f}"), "mse": ("MSE", "{:.4f}"), "identity": ("Identity", "{:.2f}")}
"""Figures under each picture: how each is called and written."""


@dataclass(frozen=True)
class Row:
    """One photo of a comparison: its name, the pictures, and the figures by method."""

    name: str
    comparison: Comparison
    figures: dict[str, dict[str, float | None]]


def figure_texts(figures: dict[str, float | None]) -> list[tuple[str, str]]:
    """Names and values of the figures that there are."""
    return [(name, form.format(figures[key])) for key, (name, form) in FIGURES.items() if figures.get(key) is not None]


def draw_sheet(rows: Sequence[Row], settings: str) -> Image.Image:
    """Draw the sheet: for each photo a row of pictures with their figures, and a row of maps of each stage.

    Args:
        rows: at least one photo.
        settings: the edit, in words.
    """
    from gra_core.comparison import METHODS  # noqa: PLC0415 - brings PyTorch

    row_height = CAPTION_HEIGHT + SIDE + GAP + MAP_SIDE + 20 + 2 * GAP
    width = len(METHODS) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, TITLE_HEIGHT + row_height * len(rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    small = ImageFont.load_default(15)
    draw.text((GAP, 10), settings, font=_fitting(settings, width - 2 * GAP), fill=INK)
    about = f"{PROGRAM}. Figures: distance to the input at 256 px. 'Not aligned': ablations of the same weights."
    draw.text((GAP, 40), about, font=small, fill=PALE)
    for index, row in enumerate(rows):
        top = TITLE_HEIGHT + index * row_height
        for column, (method, (title, _)) in enumerate(METHODS.items()):
            left = GAP + column * (SIDE + GAP)
            picture = row.comparison.pictures[method].resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top))
            draw.text((left, top + SIDE + 4), title, font=small, fill=INK)
            texts = [f"{name} {value}" for name, value in figure_texts(row.figures.get(method, {}))] or [row.name[:45]]
            draw.text((left, top + SIDE + 24), "   ".join(texts), font=small, fill=PALE)
        _draw_maps(sheet, draw, row, top + SIDE + CAPTION_HEIGHT, small)
    return sheet


def _fitting(text: str, width: int) -> ImageFont.FreeTypeFont:
    """The largest font in which a title goes into so many pixels; many sliders make long titles."""
    sizes = (ImageFont.load_default(size) for size in range(24, 7, -1))
    return next((font for font in sizes if font.getlength(text) <= width), ImageFont.load_default(8))


def _draw_maps(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, top: int, font: ImageFont.FreeTypeFont) -> None:
    left = GAP
    for stage in row.comparison.stages:
        for picture in (stage.residual, stage.aligned, stage.flow):
            sheet.paste(picture.resize((MAP_SIDE - 26,) * 2, Image.Resampling.NEAREST), (left, top))
            left += MAP_SIDE - 22
        text = f"{stage.side} px: residual found, aligned, from where"
        draw.text((left - 3 * (MAP_SIDE - 22), top + MAP_SIDE - 20), text, font=font, fill=PALE)
        left += GAP
