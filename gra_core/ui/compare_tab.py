"""The tab for reviewers: one edit by several methods, with figures and maps."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from gra_core.batch import SUFFIXES
from gra_core.errors import CheckpointError
from gra_core.export import describe, result_name, save_picture
from gra_core.images import load_image
from gra_core.ui import words
from gra_core.ui.contact_sheet import Row, draw_sheet, figure_texts
from gra_core.ui.examples import example_files
from gra_core.ui.studio import Studio
from gra_core.ui.widgets import choices_of, data_url, explain, note

if TYPE_CHECKING:
    from gra_core.evaluation.perceptual import LPIPS

MAX_PHOTOS = 8
SHOWN_SIDE = 384
"""Side in pixels of the pictures on the page."""


@dataclass
class Metrics:
    """LPIPS, loaded when it is first asked for; without it after the first failure."""

    lpips: LPIPS | None = None
    tried: bool = False

    def get(self) -> LPIPS | None:
        """The network, or None where its weights are not to be had."""
        if not self.tried:
            from gra_core.evaluation.perceptual import load_lpips  # noqa: PLC0415 - slow, and for this tab only

            self.tried = True
            try:
                self.lpips = load_lpips()
            except CheckpointError:
                self.lpips = None
        return self.lpips


class CompareTab:
    """The widgets and the answers to their events."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.metrics = Metrics()
        choices = choices_of(studio.edits)
        with gr.Column(elem_id="compare"):
            gr.Markdown(words.COMPARE)
            self.files = gr.File(
                file_count="multiple",
                file_types=sorted(SUFFIXES),
                label=f"Photos (up to {MAX_PHOTOS})",
                height=160,
                elem_id="compare-files",
            )
            with gr.Row():
                self.key = gr.Dropdown(choices, value=choices[0][1], label="Edit", elem_id="compare-edit")
                self.strength = gr.Slider(
                    -100,
                    100,
                    value=60,
                    step=1,
                    label="Strength",
                    buttons=["reset"],
                    elem_id="compare-strength",
                    elem_classes=["edit-slider", "two-sided", "boxed"],
                )
            with gr.Row(elem_classes="bar"):
                self.start = gr.Button("Compare", variant="primary", min_width=150, elem_id="compare-start")
                self.example = gr.Button("Compare with an example", min_width=200, elem_id="compare-example")
            self.status = gr.HTML(elem_id="compare-status")
            self.sheet = gr.DownloadButton("Download the contact sheet", visible=False, elem_id="compare-sheet")
            self.results = gr.HTML(apply_default_css=False, elem_id="compare-results")

    def connect(self) -> None:
        """Wire the events."""
        # In a line of its own, as batches are.
        line = {"concurrency_id": "compare", "concurrency_limit": 1, "show_progress": "hidden"}
        common = {"preprocess": False, "api_visibility": "private", **line}
        outputs = [self.status, self.results, self.sheet]
        settings = [self.key, self.strength]
        self.start.click(self.on_start, [self.files, *settings], outputs, **common)
        self.example.click(self.on_example, settings, outputs, **common)

    def on_start(
        self, request: gr.Request, files: list[dict] | None, key: str, strength: float | None
    ) -> Iterator[dict]:
        """Compares the chosen photos."""
        yield from self._compare(request, [Path(file["path"]) for file in files or []], key, strength)

    def on_example(self, request: gr.Request, key: str, strength: float | None) -> Iterator[dict]:
        """Compares on the first example."""
        yield from self._compare(request, example_files()[:1], key, strength)

    def _compare(self, request: gr.Request, paths: list[Path], key: str, strength: float | None) -> Iterator[dict]:
        from gra_core import comparison  # noqa: PLC0415 - brings PyTorch, which the page starts without

        if not paths:
            yield {self.status: note("error", words.COMPARE_EMPTY)}
            return
        strengths = self._strengths(key, strength)
        yield {self.results: "", self.sheet: gr.update(visible=False)}
        rows, failures = [], []
        for index, path in enumerate(paths[:MAX_PHOTOS]):
            yield {self.status: note("busy", f"Comparing photo {index + 1} of {len(paths[:MAX_PHOTOS])}: {path.name}")}
            try:
                aligned = self.studio.aligner.align_photo(load_image(path)).image
                result = self.studio.run(comparison.compare, aligned, strengths)
                rows.append(Row(path.name, result, comparison.figures(result, self.metrics.get())))
            except Exception as error:
                failures.append(f"{path.name}: {explain(error)}")
            yield {self.results: "".join(map(_row_html, rows))}
        if not rows:
            yield {self.status: note("error", " ".join(failures))}
            return
        settings = describe(strengths, self.studio.edits)
        shelf = self.studio.visitors.shelf(request.session_hash, "compare")
        sheet = shelf.path(result_name("comparison", strengths, ".png"))
        save_picture(draw_sheet(rows, settings), sheet, ".png", settings)
        missing = "" if self.metrics.lpips else f" {words.NO_LPIPS}"
        message = f"Done: {settings}.{missing} {' '.join(failures)}".strip()
        yield {
            self.status: note("error" if failures else "ready", message),
            self.sheet: gr.update(value=str(sheet), visible=True),
        }

    def _strengths(self, key: str, strength: float | None) -> dict[str, float]:
        edit = self.studio.edits[key]
        return {key: min(max(strength or 0.0, edit.minimum), edit.maximum)}


def _row_html(row: Row) -> str:
    """A photo's columns and maps; pictures travel inside, so that nothing stays on disk."""
    from gra_core.comparison import METHODS  # noqa: PLC0415 - as above

    columns = []
    for method, (title, what) in METHODS.items():
        picture = data_url(row.comparison.pictures[method], SHOWN_SIDE)
        figures = figure_texts(row.figures.get(method, {}))
        lines = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in figures)
        columns.append(
            f'<figure><img src="{picture}" alt="{html.escape(title)}" width="{SHOWN_SIDE}" height="{SHOWN_SIDE}">'
            f"<figcaption><b>{html.escape(title)}</b><span>{html.escape(what)}</span><dl>{lines}</dl></figcaption>"
            "</figure>"
        )
    stages = "".join(
        f"<tr><th scope='row'>{stage.side} px</th>"
        + "".join(
            f'<td><img src="{data_url(picture, 160)}" alt="{alt} at {stage.side} px" width="160" height="160"></td>'
            for alt, picture in (
                ("Residual found", stage.residual),
                ("Residual aligned", stage.aligned),
                ("Correspondence", stage.flow),
            )
        )
        + f"<td>{stage.farthest:.0f} px</td></tr>"
        for stage in row.comparison.stages
    )
    return (
        f'<section class="comparison-row"><h2>{html.escape(row.name)}</h2><div class="columns">{"".join(columns)}</div>'
        f"<p>{html.escape(words.COMPARE_NOTE.strip())}</p>"
        '<div class="maps" tabindex="0" role="region" aria-label="Maps">'  # scrolls on a phone: by keyboard, too
        '<table><caption>What each stage of GRA does</caption><thead><tr><th scope="col">Stage</th>'
        '<th scope="col">Residual found</th><th scope="col">Residual aligned</th>'
        '<th scope="col">Where it comes from (hue: direction, depth of colour: distance)</th>'
        f'<th scope="col">Farthest</th></tr></thead><tbody>{stages}</tbody></table></div></section>'
    )
