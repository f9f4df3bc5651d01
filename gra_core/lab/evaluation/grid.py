"""One picture of what each method does, for looking at: generated faces and, with scikit-image, the astronaut."""

from __future__ import annotations

import importlib.util

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gra_core.lab.evaluation.editing import render_exact, source_codes
from gra_core.lab.evaluation.workers import EvaluationContext

SIDE, LABEL_HEIGHT, GAP = 224, 22, 8
GENERATED = 2
PAPER, INK = "white", (30, 28, 26)


def grid_sources(context: EvaluationContext) -> list[Image.Image]:
    """Aligned portraits that anyone may show: the first generated faces, and NASA's portrait of Eileen Collins."""
    codes = source_codes(context.editor.generator, GENERATED).split(1)
    sources = [render_exact(context.editor, code, {}) for code in codes]
    if context.aligner and importlib.util.find_spec("skimage"):
        from skimage import data  # noqa: PLC0415 - for development only

        astronaut = Image.fromarray(np.asarray(data.astronaut()))
        sources.append(context.aligner.align_photo(astronaut).image)
    return sources


def draw_grid(context: EvaluationContext) -> Image.Image:
    """For each source a row per method: the source, the method's picture without an edit, and after each setting."""
    columns = ["source", "no edit", *context.settings]
    sources, font = grid_sources(context), ImageFont.load_default(15)
    row_height = LABEL_HEIGHT + SIDE
    block_height = LABEL_HEIGHT + row_height * len(context.methods) + GAP
    grid = Image.new("RGB", (GAP + (SIDE + GAP) * len(columns), block_height * len(sources)), PAPER)
    draw = ImageDraw.Draw(grid)
    for block, source in enumerate(sources):
        top = block * block_height
        for number, title in enumerate(columns):
            draw.text((GAP + number * (SIDE + GAP), top + 3), title, font=font, fill=INK)
        top += LABEL_HEIGHT
        for name, method in context.methods.items():
            draw.text((GAP, top + 3), name, font=font, fill=INK)
            inversion = method.invert(source)
            pictures = [source, *(method.edit(inversion, strengths) for strengths in ({}, *context.settings.values()))]
            for number, picture in enumerate(pictures):
                small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                grid.paste(small, (GAP + number * (SIDE + GAP), top + LABEL_HEIGHT))
            top += row_height
    return grid
