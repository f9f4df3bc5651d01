"""The tab for reviewers: one edit by several methods, with figures and maps."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from gra_core.batch import SUFFIXES
from gra_core.directions.registry import EditDirection
from gra_core.errors import CheckpointError, GRAError
from gra_core.export import describe, result_name, save_picture
from gra_core.images import read_photo
from gra_core.ui import strings
from gra_core.ui.app_state import AppState
from gra_core.ui.contact_sheet import Row, draw_sheet, figure_texts
from gra_core.ui.examples import example_files
from gra_core.ui.panel import EditPanel
from gra_core.ui.uploads import READ, UploadList
from gra_core.ui.widgets import choices_of, data_url, explain, note

if TYPE_CHECKING:
    from gra_core.metrics.perceptual import LPIPS

MAX_PHOTOS = 8
SHOWN_SIDE, MAP_SIDE = 384, 240
"""Sides in pixels of the pictures and maps on the page."""

ALL_SLIDERS = "*"
"""In the place of an edit's key: all edits as the sliders stand."""


@dataclass
class Metrics:
    """LPIPS, loaded when it is first asked for; without it after the first failure."""

    lpips: LPIPS | None = None
    tried: bool = False

    def get(self) -> LPIPS | None:
        """The network, or None where its weights are not to be had."""
        if not self.tried:
            from gra_core.metrics.perceptual import load_lpips  # noqa: PLC0415 - slow, and for this tab only

            self.tried = True
            try:
                self.lpips = load_lpips()
            except CheckpointError:
                self.lpips = None
        return self.lpips


class CompareTab:
    """The widgets and the answers to their events.

    Args:
        state: the shared parts.
        panel: the sliders, for those who compare what they set there.
    """

    def __init__(self, state: AppState, panel: EditPanel) -> None:
        self.state, self.panel = state, panel
        self.metrics = Metrics()
        choices = _choices(state.edits)
        with gr.Column(elem_id="compare"):
            gr.Markdown(strings.COMPARE)
            self.files = gr.File(
                file_count="multiple",
                file_types=sorted(SUFFIXES),
                label=f"Photos (up to {MAX_PHOTOS})",
                height=160,
                elem_id="compare-files",
            )
            self.uploads = UploadList(state.received, state.sessions, self.files, "photos to compare")
            with gr.Row():
                self.key = gr.Dropdown(
                    choices, value=choices[0][1], label="Edit", min_width=300, elem_id="compare-edit"
                )
                self.strength = gr.Slider(
                    -100,
                    100,
                    value=60,
                    step=1,
                    label="Strength",
                    min_width=300,
                    buttons=["reset"],
                    elem_id="compare-strength",
                    elem_classes=["edit-slider", "two-sided", "boxed"],
                )
            with gr.Row(elem_classes="bar"):
                self.start = gr.Button("Compare", variant="primary", size="md", min_width=110, elem_id="compare-start")
                self.example = gr.Button("Compare an example", size="md", min_width=110, elem_id="compare-example")
            self.status = gr.HTML(elem_id="compare-status")
            self.sheet = gr.DownloadButton(
                "Download the contact sheet", size="md", visible=False, elem_id="compare-sheet"
            )
            self.results = gr.HTML(apply_default_css=False, elem_id="compare-results")

    def connect(self, tab: gr.Tab) -> None:
        """Wire the events; `tab` is where the widgets are."""
        common = {"preprocess": False, "api_visibility": "private", "show_progress": "hidden"}
        line = {"concurrency_id": "compare", "concurrency_limit": 1}  # of its own, as batches are
        outputs = [self.status, self.results, self.sheet]
        settings = [self.key, self.strength, *self.panel.sliders]
        tab.select(self.on_open, [self.key], [self.key], **common)
        self.uploads.connect(common)
        self.start.click(self.on_wait, None, [self.status], **common).then(
            self.on_start, [*self.uploads.inputs, *settings], outputs, js=READ, **common, **line
        )
        self.example.click(self.on_wait, None, [self.status], **common).then(
            self.on_example, settings, outputs, **common, **line
        )

    def on_open(self, request: gr.Request, key: str | None) -> dict:
        """The tab was opened: offers the edits that the visitor has by now."""
        edits = self.state.edits_of(request.session_hash)
        choices = _choices(edits)
        return gr.update(choices=choices, value=key if key == ALL_SLIDERS or key in edits else choices[0][1])

    def on_wait(self) -> str:
        """Says at once that a comparison was asked for: another visitor's may have to end before."""
        return note("busy", strings.BATCH_WAITING)

    def on_start(
        self, request: gr.Request, _files: None, paths: str, key: str, strength: float | None, *values: object
    ) -> Iterator[dict]:
        """Compares the chosen photos; without any, the face that is open in the tab Edit."""
        try:
            photos = [self._photo(path) for path in self.uploads.read(request, paths)]
        except GRAError as error:
            yield {self.status: note("error", str(error))}
            return
        session = self.state.sessions.get(request.session_hash)
        if not photos and session is not None:
            photos = [(session.name, lambda: session.portrait.aligned.image)]
        yield from self._compare(request, photos, self._strengths(request, key, strength, values))

    def on_example(self, request: gr.Request, key: str, strength: float | None, *values: object) -> Iterator[dict]:
        """Compares on the first example."""
        photos = [self._photo(path) for path in example_files()[:1]]
        yield from self._compare(request, photos, self._strengths(request, key, strength, values))

    def _photo(self, path: Path) -> tuple[str, Callable[[], Image.Image]]:
        """Name of a file, and a function that returns its largest face."""

        def face() -> Image.Image:
            photo, faces = self.state.aligner.find(read_photo(path))
            return self.state.aligner.align(photo.image, faces[0]).image

        return path.name, face

    def _compare(
        self,
        request: gr.Request,
        photos: list[tuple[str, Callable[[], Image.Image]]],
        strengths: dict[str, float],
    ) -> Iterator[dict]:
        from gra_core import comparison  # noqa: PLC0415 - brings PyTorch, which the page starts without

        if not photos:
            yield {self.status: note("error", strings.COMPARE_EMPTY)}
            return
        edits = self.state.edits_of(request.session_hash)
        used = {key: edits[key] for key in strengths}
        yield {self.results: "", self.sheet: gr.update(visible=False)}
        rows, failures = [], []
        for index, (name, face) in enumerate(photos[:MAX_PHOTOS]):
            yield {self.status: note("busy", f"Comparing photo {index + 1} of {len(photos[:MAX_PHOTOS])}: {name}")}
            try:
                result = self.state.run(comparison.compare, face(), strengths, used)
                rows.append(Row(name, result, comparison.figures(result, self.metrics.get())))
            except Exception as error:
                failures.append(f"{name}: {explain(error)}")
            yield {self.results: "".join(map(_row_html, rows)) + _note_html(rows)}
        if len(photos) > MAX_PHOTOS:
            failures.append(strings.COMPARE_MANY.format(count=MAX_PHOTOS))
        if not rows:
            yield {self.status: note("error", " ".join(failures))}
            return
        settings = describe(strengths, used)
        store = self.state.sessions.new_store(request.session_hash, "comparison")
        picture = draw_sheet(rows, settings)
        sheet = store.write(
            result_name("comparison", strengths, ".png"), lambda part: save_picture(picture, part, ".png", settings)
        )
        missing = "" if self.metrics.lpips else f" {strings.NO_LPIPS}"
        message = f"Done: {settings}.{missing} {' '.join(failures)}".strip()
        yield {
            self.status: note("error" if failures else "ready", message),
            self.sheet: gr.update(value=str(sheet), visible=True),
        }

    def _strengths(
        self, request: gr.Request, key: str, strength: float | None, values: tuple[object, ...]
    ) -> dict[str, float]:
        edits = self.state.edits_of(request.session_hash)
        if key == ALL_SLIDERS:
            return self.panel.read(values, edits)
        if key not in edits:  # an own edit of a visit that ended
            return {}
        return {key: min(max(strength or 0.0, edits[key].minimum), edits[key].maximum)}


def _choices(edits: Mapping[str, EditDirection]) -> list[tuple[str, str]]:
    return [*choices_of(edits), (strings.ALL_SLIDERS, ALL_SLIDERS)]


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
    stages = row.comparison.stages
    heads = "".join(f'<th scope="col">{stage.side} px</th>' for stage in stages)
    lines = "".join(
        f'<tr><th scope="row">{title}</th>'
        + "".join(
            f'<td><img src="{data_url(getattr(stage, kind), MAP_SIDE)}" alt="{title} at {stage.side} px" '
            f'width="{MAP_SIDE}" height="{MAP_SIDE}"></td>'
            for stage in stages
        )
        + "</tr>"
        for title, kind in (("Found", "residual"), ("Aligned", "aligned"), ("Taken from", "flow"))
    )
    farthest = "".join(f"<td>{stage.farthest:.0f} px</td>" for stage in stages)
    return (
        f'<section class="comparison-row"><h2>{html.escape(row.name)}</h2><div class="columns">{"".join(columns)}</div>'
        f"<table><caption>{html.escape(strings.COMPARE_STAGES)}</caption>"
        f'<thead><tr><th scope="col">Stage</th>{heads}</tr></thead>'
        f'<tbody>{lines}<tr><th scope="row">Farthest</th>{farthest}</tr></tbody></table></section>'
    )


def _note_html(rows: list[Row]) -> str:
    """Explanation of the figures."""
    return f'<p class="comparison-note">{html.escape(strings.COMPARE_NOTE.strip())}</p>' if rows else ""
