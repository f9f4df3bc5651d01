"""The tab in which many photos are edited alike."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping

import gradio as gr

from gra_core.archives import is_hidden
from gra_core.batch import LEFT_OUT, SUFFIXES, ZipSink, edit_batch, list_items
from gra_core.directions.registry import EditDirection
from gra_core.export import FORMAT_CHOICES, describe
from gra_core.ui import strings
from gra_core.ui.app_state import AppState
from gra_core.ui.panel import EditPanel
from gra_core.ui.session import FACE_VIEW, PHOTO_VIEW
from gra_core.ui.temp_store import TempStore
from gra_core.ui.uploads import READ, UploadList, named
from gra_core.ui.widgets import choice, explain, note

RESULT_NAME = "portraits-edited.zip"


class BatchTab:
    """The widgets and the answers to their events.

    Args:
        state: the shared parts.
        panel: the sliders that say what is done to each photo.
    """

    def __init__(self, state: AppState, panel: EditPanel) -> None:
        self.state, self.panel = state, panel
        self.stopping: set[str | None] = set()
        with gr.Column(elem_id="batch"):
            gr.Markdown(strings.BATCH)
            self.summary = gr.HTML(self._settings({}, {}), elem_id="batch-settings")
            self.files = gr.File(
                file_count="multiple",
                file_types=[".zip", *sorted(SUFFIXES)],
                label="Photos or a zip",
                height=200,
                elem_id="batch-files",
            )
            self.uploads = UploadList(state.received, state.sessions, self.files, "photos to edit")
            with gr.Row(elem_classes="bar"):
                self.folder = gr.UploadButton(
                    "Choose a folder", file_count="directory", size="md", min_width=110, scale=0, elem_id="batch-folder"
                )
                self.view = choice("Result", [PHOTO_VIEW, FACE_VIEW], "batch-view")
                self.format = choice("Format", list(FORMAT_CHOICES), "batch-format")
            with gr.Row(elem_classes="bar"):
                self.start = gr.Button(
                    "Edit all photos", variant="primary", size="md", min_width=150, elem_id="batch-start"
                )
                self.stop = gr.Button("Stop", size="md", min_width=80, scale=0, interactive=False, elem_id="batch-stop")
            self.status = gr.HTML(elem_id="batch-status")
            self.result = gr.DownloadButton("Download the zip", size="md", visible=False, elem_id="batch-result")

    def connect(self, tab: gr.Tab) -> None:
        """Wire the events; `tab` is where the widgets are."""
        common = {"preprocess": False, "api_visibility": "private", "show_progress": "hidden"}
        outputs = [self.status, self.result, self.start, self.stop]
        tab.select(self.on_open, self.panel.sliders, [self.summary], **common)
        self.uploads.connect(common)
        self.folder.upload(self.on_folder, [self.folder], [self.files, self.status], **common)
        self.start.click(self.on_wait, self.uploads.inputs, [self.status], js=READ, **common).then(
            self.on_start,
            [*self.uploads.inputs, self.view, self.format, *self.panel.sliders],
            outputs,
            js=READ,
            # Batches wait for each other, not for those who edit: else one visitor's folder would stop all the others.
            **common | {"concurrency_id": "batch", "concurrency_limit": 1},
        )
        self.stop.click(self.on_stop, None, [self.stop], **common)

    def on_open(self, request: gr.Request, *values: object) -> str:
        """The tab was opened: says what the sliders will do."""
        edits = self.state.edits_of(request.session_hash)
        return self._settings(self.panel.read(values, edits), edits)

    def on_folder(self, request: gr.Request, files: list[dict] | None) -> dict:
        """A folder was chosen: its photos are listed like single ones, what else is in it is left out, and said."""
        received, photos, left_out = self.state.received, [], []
        for file in files or []:
            path = received.path(file)
            if path.suffix.lower() in SUFFIXES:
                photos.append(file)
            else:
                received.discard(file)
                left_out += [] if is_hidden(path.name) else [(path.name, LEFT_OUT)]
        listed = [str(path) for path in self.uploads.keep(request, photos)]
        return {self.files: listed, self.status: _lists(left_out)}

    def on_stop(self, request: gr.Request) -> dict:
        """The visitor has enough: the photo in hand is the last one."""
        self.stopping.add(request.session_hash)
        return gr.update(interactive=False)

    def on_wait(self, _files: None, paths: str) -> str:
        """Says at once that the batch was asked for: another visitor's may have to end before."""
        return _progress(0, 1, strings.BATCH_WAITING) if named(paths) else ""

    def on_start(
        self, request: gr.Request, _files: None, paths: str, view: str, file_format: str, *values: object
    ) -> Iterator[dict]:
        """Edits all photos; the last answer has the zip."""
        if not named(paths):
            yield {self.status: note("error", strings.BATCH_EMPTY)}
            return
        self.stopping.discard(request.session_hash)
        done = {self.start: gr.update(interactive=True), self.stop: gr.update(interactive=False)}
        yield {
            self.status: _progress(0, 1, "Starting"),
            self.result: gr.update(visible=False),
            self.start: gr.update(interactive=False),
            self.stop: gr.update(interactive=True),
        }
        sessions, visitor = self.state.sessions, request.session_hash
        desk = TempStore()  # the photos stay there until the batch is done, however long they have been in the list
        try:
            items = list_items([desk.copy(path) for path in self.uploads.read(request, paths)])
            left_out = [(name, LEFT_OUT) for name in items.left_out]
            store = sessions.new_store(visitor, "edited photos")
            path = store.path(RESULT_NAME)
            edits = self.state.edits_of(request.session_hash)
            edited, failures, notes, stopped = 0, left_out, [], ""
            with ZipSink(path) as sink:
                outcomes = edit_batch(
                    self.state.editor,
                    self.state.aligner,
                    items,
                    self.panel.read(values, edits),
                    sink,
                    whole_photo=view == PHOTO_VIEW,
                    suffix=FORMAT_CHOICES[file_format],
                    edits=edits,
                    unexpected=explain,
                )
                while True:
                    try:
                        outcome = self.state.compute(next, outcomes, None)
                    except OSError as error:  # such as a full disk: what is done is not lost
                        stopped = f"{explain(error)} "
                        break
                    if outcome is None:
                        break
                    sessions.get(visitor)  # the visit is not over as long as this goes on
                    if outcome.error:
                        failures.append((outcome.name, outcome.error))
                    notes += [(outcome.name, " ".join(outcome.notes))] if outcome.notes else []
                    edited += outcome.error is None
                    if request.session_hash in self.stopping:
                        self.stopping.discard(request.session_hash)
                        stopped = "Stopped: "
                        break
                    progress = _progress(outcome.done, outcome.total, outcome.name)
                    yield {self.status: progress + _lists(failures, notes)}
        except Exception as error:
            yield {**done, self.status: note("error", explain(error))}
            return
        finally:
            desk.clear()
        message = f"{stopped}{edited} of {len(items)} photos edited."
        yield {
            **done,
            self.status: note("ready" if edited else "error", message) + _lists(failures, notes),
            self.result: gr.update(value=str(path), visible=edited > 0),
        }

    def _settings(self, strengths: dict[str, float], edits: Mapping[str, EditDirection]) -> str:
        if not strengths:
            return note("ready", strings.BATCH_NOTHING)
        return note("ready", f"For every photo: {describe(strengths, edits)}.")


def _progress(done: int, total: int, name: str) -> str:
    text = html.escape(f"{done} of {total}: {name}" if done else name)
    bar = f'<progress value="{done}" max="{total}" aria-label="Photos finished"></progress>'
    return f'<div class="note busy" role="status"><span>{text}</span>{bar}</div>'


def _lists(failures: list[tuple[str, str]], notes: list[tuple[str, str]] = ()) -> str:
    return _list(strings.BATCH_FAILURES, failures) + _list(strings.BATCH_NOTES, notes)


def _list(title: str, pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    rows = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(said)}</li>" for name, said in pairs)
    return f'<div class="failures"><p>{title}</p><ul>{rows}</ul></div>'
