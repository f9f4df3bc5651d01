"""One picture of what each method does, for looking at: generated faces and, with scikit-image, the astronaut."""

from __future__ import annotations

import importlib.util

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gra_core.lab.evaluation.editing import render_exact, source_codes
from gra_core.lab.evaluation.workers import Bench

SIDE, LABEL_HEIGHT, GAP = 224, 22, 8
GENERATED = 2
PAPER, INK = "white", (30, 28, 26)


def grid_sources(bench: Bench) -> list[Image.Image]:
    """Aligned portraits that anyone may show: the first generated faces, and NASA's portrait of Eileen Collins."""
    codes = source_codes(bench.editor.generator, GENERATED).split(1)
    sources = [render_exact(bench.editor, code, {}) for code in codes]
    if bench.aligner and importlib.util.find_spec("skimage"):
        from skimage import data  # noqa: PLC0415 - for development only

        astronaut = Image.fromarray(np.asarray(data.astronaut()))
        sources.append(bench.aligner.align_photo(astronaut).image)
    return sources


def draw_grid(bench: Bench) -> Image.Image:
    """For each source a row per method: the source, the method's picture without an edit, and after each setting."""
    columns = ["source", "no edit", *bench.settings]
    sources, font = grid_sources(bench), ImageFont.load_default(15)
    row_height = LABEL_HEIGHT + SIDE
    block_height = LABEL_HEIGHT + row_height * len(bench.methods) + GAP
    grid = Image.new("RGB", (GAP + (SIDE + GAP) * len(columns), block_height * len(sources)), PAPER)
    draw = ImageDraw.Draw(grid)
    for block, source in enumerate(sources):
        top = block * block_height
        for number, title in enumerate(columns):
            draw.text((GAP + number * (SIDE + GAP), top + 3), title, font=font, fill=INK)
        top += LABEL_HEIGHT
        for name, method in bench.methods.items():
            draw.text((GAP, top + 3), name, font=font, fill=INK)
            inversion = method.invert(source)
            pictures = [source, *(method.edit(inversion, strengths) for strengths in ({}, *bench.settings.values()))]
            for number, picture in enumerate(pictures):
                small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                grid.paste(small, (GAP + number * (SIDE + GAP), top + LABEL_HEIGHT))
            top += row_height
    return grid
