"""The page: a photo goes in, sliders move, the picture follows.

Widgets and what connects them; the work itself is in `session`. Sliders are made from the registry of edits.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import gradio as gr

from gra_core.constants import ASSETS_DIR
from gra_core.directions.registry import EditDirection
from gra_core.errors import GRAError
from gra_core.ui import session as session_work
from gra_core.ui.session import FACE_VIEW, PHOTO_VIEW, Session, Studio
from gra_core.ui.theme import FAVICON, STYLESHEET, PortraitTheme

FORGET_AFTER = 3600
"""Seconds after the last use at which a visitor's photo and results are deleted."""

PATIENCE = 10.0
"""Seconds that the files of a photo outlive it, for a browser that is still loading one of them."""

ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
"""All work with the model waits in one line: two edits at once would only make both slower."""

COMPARISON_START = 10
"""Where the before/after line starts, in percent of the width: a strip of the original, the rest the result."""

TITLE = "Portrait Editor"
INTRODUCTION = f"# {TITLE}\nChange a smile, an age, a turn of the head. Everything else stays as it is."
STEPS = """
### How it works
1. **Choose a photo** with a face that looks more or less towards the camera.
2. **Move the sliders.** The face follows at once; at 0 nothing is changed.
3. **Compare** by dragging the line across the picture, then **download** the result.
"""
PRIVACY = """
The photo is processed by the computer that runs this page and is sent nowhere else. It is held in memory, with a few
temporary pictures on disk for your browser to show, and deleted when you choose another photo or about an hour after
you last used the page. It is not used for training, and no statistics are collected.
"""
LICENCE = """
The program is open source (Apache-2.0). The generator's weights are distilled from StyleGAN2-FFHQ, whose weights and
data are for **non-commercial** use, and the face landmark model was trained on iBUG 300-W, which is **not for
commercial use** either: that holds for the pictures made here too. Edit only photos that you may use, and say that a
picture is edited when others could take it for real.
"""
FINDING = "Finding the face"
INVERTING = "Rebuilding every detail"
READY = "Ready. Move a slider; drag the line across the picture to compare with the original."
EXPIRED = "Your photo was deleted because the page was idle for an hour. Please choose it again."
UNEXPECTED = "Something went wrong here. Please try again, or choose another photo."

DOWNLOAD_IN_BROWSER = """
(file) => {
  if (!file || !file.url) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name || "portrait.png";
  document.body.appendChild(link);
  link.click();
  link.remove();
}
"""

log = logging.getLogger(__name__)


def launch_options() -> dict[str, object]:
    """Arguments for `demo.launch()`: looks, and nothing that would tell a third party of a visit."""
    return {
        "theme": PortraitTheme(),
        "css_paths": STYLESHEET,
        "favicon_path": FAVICON,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": "100mb",
    }


def build_page(studio: Studio | None = None) -> gr.Blocks:
    """The page, ready to launch with `launch_options`; the model loads in the background.

    Args:
        studio: the editor and what belongs to it; the real one by default.

    Raises:
        CheckpointError: the registry of edits is missing or damaged.
    """
    studio = studio or Studio()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, FORGET_AFTER)) as blocks:
        Page(studio).connect()
    studio.warm_up()
    return blocks


class Page:
    """The widgets and the answers to their events.

    Answers are dictionaries of what changes, or a stream of them while there is something to wait for.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.session = gr.State(None, time_to_live=FORGET_AFTER, delete_callback=session_work.forget)
        gr.Markdown(INTRODUCTION, elem_id="title")
        self.status = gr.HTML(visible=False, elem_id="status")
        with gr.Row(equal_height=False, elem_id="work"):
            with gr.Column(scale=3, min_width=320, elem_id="stage"):
                self._draw_stage()
            with gr.Column(scale=2, min_width=320, elem_id="side"):
                with gr.Column(elem_id="welcome") as self.welcome:
                    gr.Markdown(STEPS, elem_id="steps")
                    self.examples = _examples()
                with gr.Column(visible=False, elem_id="controls") as self.controls:
                    with gr.Row(elem_id="controls-head"):
                        gr.Markdown("### Edits")
                        self.reset = gr.Button("Reset all", size="sm", scale=0, min_width=100, elem_id="reset")
                    self.sliders = _sliders(studio.edits)
        with gr.Column(elem_id="about"):
            with gr.Accordion("What happens to my photo", open=False):
                gr.Markdown(PRIVACY)
            with gr.Accordion("About the edits", open=False):
                gr.Markdown(_notes(studio.edits))
            with gr.Accordion("Licence", open=False):
                gr.Markdown(LICENCE)

    def _draw_stage(self) -> None:
        with gr.Row(visible=False, elem_id="stage-bar") as self.bar:
            self.view = gr.Radio(
                [FACE_VIEW, PHOTO_VIEW],
                value=FACE_VIEW,
                label="Show",
                show_label=False,
                container=False,
                min_width=230,
                elem_id="view",
            )
            self.download = gr.Button("Download PNG", variant="primary", size="md", min_width=130, elem_id="download")
            self.another = gr.Button("New photo", size="md", min_width=110, elem_id="another")
        self.faces = gr.Gallery(
            label="Which face?",
            show_label=False,
            visible=False,
            columns=8,
            fit_columns=False,
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="faces",
        )
        with gr.Column(elem_id="stage-picture"):
            self.upload = gr.Image(
                type="filepath",
                sources=["upload"],
                label="Photo",
                show_label=False,
                buttons=[],
                height=480,
                placeholder="Drop a photo here,\nor click to choose one",
                elem_id="upload",
            )
            self.comparison = gr.ImageSlider(
                type="filepath",
                label="Before and after",
                show_label=False,
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                max_height=720,
                slider_position=COMPARISON_START,
                elem_id="comparison",
            )
        self.download_file = gr.DownloadButton("Download PNG", visible="hidden", elem_id="download-file")

    def connect(self) -> None:
        """Wire the events."""
        # Raw values in (preprocess=False): a damaged upload and an emptied number box are for us to explain.
        common = {"preprocess": False, "api_visibility": "private", **ONE_AT_A_TIME}
        outputs = [
            *(self.session, self.status, self.upload, self.comparison, self.faces, self.bar, self.view),
            *(self.welcome, self.controls, self.download_file, *self.sliders),
        ]
        settings = [self.session, self.view, *self.sliders]
        self.upload.upload(self.on_upload, [self.upload, self.session], outputs, **common)
        if self.examples is not None:
            self.examples.click(
                self.on_example, [self.examples, self.session], outputs, **common | {"preprocess": True}
            )
        self.faces.select(self.on_face, [self.session], outputs, **common)
        gr.on(
            [self.view.input, *(slider.input for slider in self.sliders)],
            self.on_move,
            settings,
            outputs,
            trigger_mode="always_last",  # while one result is on its way only the newest position waits
            **common,
        )
        self.reset.click(self.on_reset, [self.session, self.view], outputs, **common)
        self.another.click(self.on_another, [self.session], outputs, **common)
        self.download.click(self.on_download, settings, outputs, **common).then(
            None, [self.download_file], js=DOWNLOAD_IN_BROWSER, api_visibility="private"
        )

    def on_upload(self, file: dict | None, previous: Session | None) -> Iterator[dict]:
        """A photo was chosen."""
        if file is None:
            yield self._empty(None)
        else:
            yield from self._start(file["path"], file.get("orig_name") or "portrait", previous)

    def on_example(self, index: int, previous: Session | None) -> Iterator[dict]:
        """An example was chosen."""
        path = example_files()[index]
        yield from self._start(path, path.name, previous)

    def on_face(self, event: gr.SelectData, session: Session | None) -> Iterator[dict]:
        """Another face of the photo was chosen."""
        if session is None:
            yield self._empty(EXPIRED)
            return
        if event.index == session.index:
            return
        try:
            yield {self.status: _note("busy", INVERTING)}
            aligned = session_work.align_face(self.studio, session, event.index)
            session = session_work.choose_face(self.studio, session, event.index, aligned)
            yield self._face_shown(session, READY)
        except Exception as error:
            yield {self.status: _note("error", _explain(error)), self.faces: gr.update(selected_index=session.index)}

    def on_move(self, session: Session | None, view: str, *values: float | None) -> dict:
        """A slider moved, or the view was switched."""
        if session is None:
            return self._empty(EXPIRED)
        strengths = session_work.read_strengths(self.studio.edits, values)
        try:
            pictures = session_work.render(self.studio, session, strengths, view)
        except Exception as error:
            return {self.status: _note("error", _explain(error))}
        return {self.session: session, self.comparison: pictures, self.status: _note("ready", READY)}

    def on_reset(self, session: Session | None, view: str) -> dict:
        """All sliders go to 0."""
        return {**dict.fromkeys(self.sliders, 0), **self.on_move(session, view, *[0.0] * len(self.sliders))}

    def on_download(self, session: Session | None, view: str, *values: float | None) -> dict:
        """Makes the file that the browser fetches next."""
        if session is None:
            return {**self._empty(EXPIRED), self.download_file: None}
        strengths = session_work.read_strengths(self.studio.edits, values)
        try:
            return {
                self.session: session,
                self.download_file: session_work.export(self.studio, session, strengths, view),
            }
        except Exception as error:
            return {self.status: _note("error", _explain(error)), self.download_file: None}

    def on_another(self, session: Session | None) -> dict:
        """Back to the start."""
        session_work.forget(session, PATIENCE)
        return self._empty(None)

    def _start(self, path: str | Path, name: str, previous: Session | None) -> Iterator[dict]:
        """From a file to its largest face, inverted."""
        session_work.forget(previous, PATIENCE)
        session = None
        try:
            yield {self.session: None, self.status: _note("busy", FINDING)}
            session = session_work.open_photo(self.studio, path, name, self.comparison.GRADIO_CACHE)
            aligned = session_work.align_face(self.studio, session, 0)
            several = len(session.faces) > 1
            crop = session_work.show_crop(session, aligned, 0)
            yield {
                self.status: _note("busy", INVERTING),
                self.upload: gr.update(visible=False),
                self.comparison: gr.update(value=(crop, crop), visible=True),
                self.faces: gr.update(
                    value=session.thumbnails() if several else None, visible=several, selected_index=0
                ),
                self.welcome: gr.update(visible=False),
            }
            session = session_work.choose_face(self.studio, session, 0, aligned)
            choice = f"{len(session.faces)} faces found; choose one above the picture. " if several else ""
            yield self._face_shown(session, choice + READY)
        except Exception as error:
            session_work.forget(session, PATIENCE)
            yield self._empty(_explain(error))

    def _empty(self, message: str | None) -> dict:
        """The page without a photo."""
        return {
            self.session: None,
            self.status: _note("error", message),
            self.upload: gr.update(value=None, visible=True),
            self.comparison: gr.update(value=None, visible=False),
            self.faces: gr.update(value=None, visible=False),
            self.bar: gr.update(visible=False),
            self.welcome: gr.update(visible=True),
            self.controls: gr.update(visible=False),
        }

    def _face_shown(self, session: Session, message: str) -> dict:
        """The page with a face inverted and all sliders at 0."""
        pictures = session_work.render(self.studio, session, {}, FACE_VIEW)
        return {
            self.session: session,
            self.status: _note("ready", message),
            self.upload: gr.update(visible=False),
            self.comparison: gr.update(value=pictures, visible=True),
            self.view: FACE_VIEW,
            self.bar: gr.update(visible=True),
            self.welcome: gr.update(visible=False),
            self.controls: gr.update(visible=True),
            **dict.fromkeys(self.sliders, 0),
        }


def example_files() -> list[Path]:
    """The example pictures, by name."""
    return sorted((ASSETS_DIR / "examples").glob("*.webp"))


def _examples() -> gr.Dataset | None:
    files = example_files()
    if not files:
        return None
    gr.Markdown("#### No photo at hand? Take one of these made-up faces")
    return gr.Dataset(
        components=[gr.Image(type="filepath", visible=False)],
        samples=[[str(file)] for file in files],
        type="index",
        layout="gallery",
        show_label=False,
        container=False,
        elem_id="examples",
    )


def _sliders(edits: Mapping[str, EditDirection]) -> list[gr.Slider]:
    """One slider per edit under the heading of its group, returned in the order of `edits`."""
    groups: dict[str, list[EditDirection]] = {}
    for edit in edits.values():
        groups.setdefault(edit.group, []).append(edit)
    sliders = {}
    for group, members in groups.items():
        gr.Markdown(group, elem_classes="group-title")
        for edit in members:
            sliders[edit.key] = gr.Slider(
                edit.minimum,
                edit.maximum,
                value=0,
                step=1,
                label=edit.label,
                info=edit.hint,
                elem_id=f"edit-{edit.key}",
                elem_classes=["edit-slider", "two-sided" if edit.minimum < 0 else "one-sided"],
                buttons=["reset"],
            )
    return [sliders[key] for key in edits]


def _notes(edits: Mapping[str, EditDirection]) -> str:
    lines = [f"- **{edit.label}.** {edit.hint} {edit.caveat}".rstrip() for edit in edits.values()]
    return "What each slider does, and what tends to change along with it:\n\n" + "\n".join(lines)


def _note(kind: str, message: str | None) -> dict[str, object]:
    if message is None:
        return gr.update(value="", visible=False)
    role = "alert" if kind == "error" else "status"
    return gr.update(value=f'<div class="note {kind}" role="{role}">{html.escape(message)}</div>', visible=True)


def _explain(error: Exception) -> str:
    """The line that the visitor reads; what is not the visitor's doing goes to the log in full."""
    if isinstance(error, GRAError):
        return str(error)
    log.error("An event of the page failed", exc_info=error)
    return UNEXPECTED
