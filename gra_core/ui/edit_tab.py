"""The tab in which one photo is edited: a photo goes in, sliders move, the picture follows.

Answers to events are dictionaries of what changes, or a stream of them while there is something to wait for.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import gradio as gr

from gra_core import settings
from gra_core.alignment import TURNED
from gra_core.directions import text
from gra_core.errors import GRAError
from gra_core.export import FORMAT_CHOICES, animation_formats, describe
from gra_core.images import Photo, load_image
from gra_core.ui import session as work
from gra_core.ui import strings
from gra_core.ui.admission import MODEL, QueueFullError, Work
from gra_core.ui.app_state import AppState
from gra_core.ui.custom_edits_panel import CustomEditsPanel
from gra_core.ui.examples import example_files
from gra_core.ui.history import History
from gra_core.ui.panel import EditPanel
from gra_core.ui.session import FACE_VIEW, PHOTO_VIEW, Session
from gra_core.ui.session_store import Opening
from gra_core.ui.temp_store import TempStore
from gra_core.ui.widgets import (
    HERE,
    choice,
    choices_of,
    explain,
    file_value,
    name_of,
    note,
    picker,
    picker_value,
    pictures_value,
    player,
    viewer,
)

FINAL_SECONDS = 0.3
"""How long a slider has to rest until the quick picture is replaced by the one without loss."""

SCRIPTS = {
    name: (HERE / f"{name}.js").read_text(encoding="utf-8")
    for name in ("download", "save_text", "share_link", "photos", "status")
}


class EditTab:
    """The widgets and the answers to their events."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.revision = gr.Number(0, visible=False)  # of the history that the sliders show; 0 without a photo
        with gr.Row(equal_height=False, elem_id="work"):
            with gr.Column(scale=3, min_width=320, elem_id="stage"):
                self.status = gr.HTML(note("ready", strings.CHOOSE), js_on_load=SCRIPTS["status"], elem_id="status")
                self.notes = gr.HTML(visible=False, elem_id="notes")
                self._draw_stage()
            with gr.Column(scale=2, min_width=320, elem_id="side"):
                self.panel = EditPanel(state.edits, in_words=text.is_available())
                self.own = CustomEditsPanel(self)
                with gr.Accordion("Animate an edit", open=False, elem_id="animate"):
                    self._draw_animation()
                with gr.Accordion("Save or share the settings", open=False, elem_id="share"):
                    self._draw_sharing()

    def _draw_stage(self) -> None:
        with gr.Column(elem_id="stage-picture"):
            self.upload = gr.Image(
                type="filepath",
                sources=["upload", "webcam", "clipboard"],
                label="Photo",
                show_label=False,
                buttons=[],
                placeholder="Drop a photo here,\nor click to choose one",
                elem_id="upload",
            )
            self.viewer = viewer("comparison")
        with gr.Column(elem_id="welcome") as self.welcome:
            gr.Markdown("No photo at hand? Take one of these made-up faces.")
            files = example_files()
            names = [f"Example {index}" for index in range(1, len(files) + 1)]
            self.examples = picker("Examples", "examples", picker_value(names, [load_image(file) for file in files]))
        self.faces = picker("Faces in the photo", "faces", visible=False)
        with gr.Column(visible=False, elem_id="stage-bar") as self.bar:
            with gr.Row(elem_classes="bar"):
                self.view = choice("Show", [PHOTO_VIEW, FACE_VIEW], "view", min_width=230)
                self.format = choice("Format", list(FORMAT_CHOICES), "format", min_width=230)
            with gr.Row(elem_classes="bar"):
                self.mark = gr.Checkbox(
                    label="Write “AI-edited” into the corner", container=False, min_width=200, elem_id="mark"
                )
                self.turned = gr.Button("Turn", size="md", min_width=80, scale=0, elem_id="turn")
                self.another = gr.Button("New photo", size="md", min_width=110, scale=0, elem_id="another")
                self.download = gr.Button(
                    strings.DOWNLOAD, variant="primary", size="md", min_width=130, elem_id="download"
                )
        self.file = gr.DownloadButton("Download", visible="hidden", elem_id="download-file")

    def _draw_animation(self) -> None:
        choices = choices_of(self.state.edits)
        self.moved = gr.Dropdown(choices, value=choices[0][1], label="Edit", elem_id="animate-edit")
        self.kind = gr.Radio(list(animation_formats()), value="GIF", label="Format", elem_id="animate-format")
        self.animate = gr.Button("Make the animation", size="md", elem_id="animate-go")
        self.animation = player("animation")
        self.animation_file = gr.DownloadButton("Download the animation", visible=False, elem_id="animation-file")

    def _draw_sharing(self) -> None:
        with gr.Row(elem_classes="bar"):
            self.save = gr.Button("Save as a file", size="sm", min_width=110, elem_id="save-settings")
            self.load = gr.UploadButton(
                "Load a file", file_types=[".json"], size="sm", min_width=110, elem_id="load-settings"
            )
            self.share = gr.Button("Copy as a link", size="sm", min_width=110, elem_id="copy-link")
        self.link = gr.Textbox(label="Link", interactive=False, visible=False, elem_id="link")
        self.text = gr.Textbox(visible=False)

    def connect(self, blocks: gr.Blocks) -> None:
        """Wire the events."""
        # Raw values in (preprocess=False): a damaged upload and an emptied number box are for us to explain.
        common = {"preprocess": False, "api_visibility": "private", "show_progress": "hidden", **MODEL}
        quick = {"preprocess": False, "api_visibility": "private", "show_progress": "hidden"}
        rest = {"trigger_mode": "always_last", **quick, "concurrency_limit": None}
        in_line, at_once = self.in_line, self.at_once_without_photo
        panel, sliders = self.panel, self.panel.sliders
        # What a slider move may change; Gradio takes half a millisecond for each output, changed or not.
        moved = [
            *(self.revision, self.status, self.notes, self.upload, self.viewer, self.faces, self.bar, self.welcome),
            *(self.animation, self.animation_file, panel.undo, panel.redo, panel.summary, *panel.slots),
        ]
        outputs = [*moved, self.view, self.file, self.download, self.moved, panel.finder, *panel.sliders]

        for opened in (
            self.upload.input(self.on_upload, [self.upload, *sliders], outputs, **common),
            self.examples.select(self.on_example, sliders, outputs, **common),
            self.turned.click(self.on_turned, [self.revision, *sliders], outputs, **common),
        ):
            opened.then(self.on_opened, [self.revision, self.view, *sliders], moved, **common).then(
                self.on_rest, None, [self.viewer], **rest
            )
        self.faces.select(in_line(self.on_face, Work.OPEN), [self.revision, self.view], outputs, **common)
        gr.on(
            [event for slider in sliders for event in (slider.input, slider.release)],
            at_once(self.on_move),
            [self.revision, self.view, *sliders],
            moved,
            trigger_mode="always_last",  # while one result is on its way only the newest position waits
            **common,
        ).then(self.on_rest, None, [self.viewer], **rest)
        self.view.input(in_line(self.on_view), [self.revision, self.view], outputs, **common)
        for button, step in ((panel.reset, self.on_reset), (panel.undo, self.on_undo), (panel.redo, self.on_redo)):
            button.click(at_once(step), [self.revision, self.view], outputs, **common)
        panel.preset.select(at_once(self.on_preset), [self.revision, self.view], outputs, **common)
        self.another.click(in_line(self.on_another), None, outputs, **common)
        self.download.click(
            in_line(self.on_download), [self.revision, self.view, self.format, self.mark, *sliders], outputs, **common
        ).then(None, [self.file], js=SCRIPTS["download"], api_visibility="private")
        self.own.connect(outputs, common)
        self.animate.click(self.on_animate, [self.revision, self.moved, self.kind, *sliders], outputs, **common)
        self.save.click(self.on_save, sliders, [self.text], **quick).then(
            None, [self.text], js=SCRIPTS["save_text"], api_visibility="private"
        )
        self.load.upload(at_once(self.on_load), [self.load, self.revision, self.view], outputs, **common)
        self.share.click(self.on_share, sliders, [self.text, self.link, self.status], **quick).then(
            None, [self.text], [self.link], js=SCRIPTS["share_link"], api_visibility="private"
        )
        blocks.load(self.on_visit, None, [self.status, *panel.outputs], **quick)
        blocks.load(None, js=SCRIPTS["photos"], api_visibility="private")
        blocks.unload(self.on_leave)

    def in_line(
        self,
        answer: Callable[..., dict | Iterator[dict]],
        work: Work = Work.MOVE,
        refused: Callable[[], dict] = dict,
    ) -> Callable[..., Iterator[dict]]:
        """An answer that waits for its turn with the model, and says so when that takes a while.

        Args:
            answer: to an event.
            work: what it does.
            refused: what else changes on the page when the line is full.
        """

        @functools.wraps(answer)  # Gradio reads the annotations
        def answer_in_turn(request: gr.Request, *arguments: object) -> Iterator[dict]:
            try:
                place = self.state.queue.join(request.session_hash, work)
            except QueueFullError as error:
                yield {**refused(), self.status: note("error", str(error))}
                return
            with place:
                waited = False
                for standing in place.wait():
                    waited = True
                    yield {self.status: note("busy", strings.in_line(*standing))}
                answers = answer(request, *arguments)
                if not isinstance(answers, dict):
                    yield from answers
                    return
            if waited and answers.get(self.status) == gr.skip():  # what said to wait must not stay
                answers |= {self.status: note("ready", strings.READY)}
            yield answers  # the next one is served while this is sent

        return answer_in_turn

    def at_once_without_photo(self, answer: Callable[..., dict]) -> Callable[..., Iterator[dict]]:
        """As `in_line` where there is a photo; before, or while it is read, nothing has to wait for the model."""
        in_turn = self.in_line(answer)

        @functools.wraps(answer)
        def answer_at_once(request: gr.Request, *arguments: object) -> Iterator[dict]:
            if self.state.sessions.get(request.session_hash) is None:
                yield answer(request, *arguments)
            else:
                yield from in_turn(request, *arguments)

        return answer_at_once

    # --- a photo comes and goes ------------------------------------------------------------------------------------

    def on_visit(self, request: gr.Request) -> dict:
        """The page was opened, perhaps by a link that carries settings."""
        strengths = settings.from_query(str(request.query_params), self.state.edits)
        if not strengths:
            return {self.status: gr.skip()}
        return {self.status: note("ready", strings.WAITING), **self.panel.show(strengths, self.state.edits)}

    def on_leave(self, request: gr.Request) -> None:
        """The page was closed or loaded anew."""
        self.state.sessions.leave(request.session_hash)
        self.state.queue.leave(request.session_hash)

    def on_upload(self, request: gr.Request, file: dict | None, *values: object) -> Iterator[dict]:
        """A photo was chosen, dropped, pasted or taken. Its file goes as soon as it is read, or nobody waits for it."""
        if file is None:
            yield {self.status: gr.skip()}
            return
        store = TempStore()
        try:
            path = self.state.received.take(file, store)  # before it waits in line
            yield from self._open(request, path, name_of(file, "portrait"), values)
        except (GRAError, OSError) as error:
            yield {**self._empty(), self.status: note("error", explain(error))}
        finally:
            store.clear()

    def on_example(self, request: gr.Request, event: gr.SelectData, *values: object) -> Iterator[dict]:
        """An example was chosen."""
        path = example_files()[event.index]
        yield from self._open(request, path, path.name, values)

    def on_turned(self, request: gr.Request, revision: float, *values: object) -> Iterator[dict]:
        """The photo is to be turned by a quarter."""
        session = self.state.sessions.get(request.session_hash)
        if session is None:
            yield self.no_photo(request, revision)
            return
        photo = session.original.turned(1)
        photo = replace(photo, notes=tuple(note for note in photo.notes if note not in TURNED.values()))
        yield from self._open(request, photo, f"{session.name}.jpg", values)

    def on_opened(self, request: gr.Request, revision: float, view: str, *values: object) -> Iterator[dict]:
        """The photo is shown, or could not be opened: what was done to the sliders at the last moment follows."""
        session = self.state.sessions.get(request.session_hash)
        if session is not None and _is_news(session, revision, self.panel.read(values, session.edits)):
            yield from self.in_line(self.on_move)(request, revision, view, *values)
        else:
            yield {self.status: gr.skip()}

    def on_another(self, request: gr.Request) -> dict:
        """Back to the start."""
        self.state.sessions.drop(request.session_hash)
        shown = self.panel.show({}, self.state.edits_of(request.session_hash))
        return {**self._empty(), self.status: note("ready", strings.CHOOSE), **shown}

    def on_face(self, request: gr.Request, event: gr.SelectData, revision: float, view: str) -> Iterator[dict]:
        """Another face of the photo was chosen. Its sliders come before it is inverted: a hand may be quicker."""
        session = self.state.sessions.get(request.session_hash)
        if session is None:
            yield self.no_photo(request, revision)
            return
        index = event.index
        if index == session.index:
            yield {self.status: gr.skip()}  # Gradio takes no answer at all for one that empties everything
            return
        known, shown = session.portraits.get(index), {}
        try:
            yield {self.status: note("busy", strings.INVERTING)}
            aligned = work.align_face(self.state, session, index)
            history = known.history if known else History()
            shown = {self.revision: history.revision, self.faces: _faces(session, index)}
            if not known and view == FACE_VIEW:
                session.drop_preview()
                crop = work.show_before(session, view, aligned, index)
                shown[self.viewer] = gr.update(value=pictures_value(crop, crop))
            yield {**shown, **self.panel.reflect(history, session.edits)}
            chosen = work.choose_face(self.state, session, index, aligned, history)
            self.state.sessions.put(request.session_hash, chosen)
            yield {**self.rendered(chosen, view, sliders=False), self.download: _download(chosen, view)}
        except Exception as error:
            before = {**self.answer(session, view), self.faces: _faces(session)} if shown else {}
            yield {**before, self.status: note("error", explain(error))}

    def _open(
        self, request: gr.Request, source: str | Path | Photo, name: str, values: tuple[object, ...]
    ) -> Iterator[dict]:
        """From a file, or a photo read before, to its largest face, inverted and edited as the sliders stand then."""
        strengths = self.panel.read(values, self.state.edits_of(request.session_hash))
        visit = self.state.sessions.visit(request.session_hash)
        opening = visit.opening = Opening(strengths)
        try:
            yield from self.in_line(self._start, Work.OPEN, self._empty)(request, source, name, opening)
        finally:
            if visit.opening is opening:  # no other photo came
                visit.opening = None

    def _start(self, request: gr.Request, source: str | Path | Photo, name: str, opening: Opening) -> Iterator[dict]:
        """As `_open`, when it is the visitor's turn."""
        sessions, visitor = self.state.sessions, request.session_hash
        sessions.drop(visitor)
        visit = sessions.visit(visitor)
        session, kept = None, False
        try:
            yield {self.status: note("busy", strings.FINDING)}
            session = work.open_photo(self.state, source, name)
            self.state.queue.give_way()
            aligned = work.align_face(self.state, session, 0)
            photo = work.show_before(session, PHOTO_VIEW, aligned, 0)
            yield {
                **self._opened(session),
                self.status: note("busy", strings.INVERTING),
                self.viewer: gr.update(value=pictures_value(photo, photo), visible=True),
            }
            self.state.queue.give_way()
            session = work.choose_face(self.state, session, 0, aligned)
            session = replace(session, edits=self.state.edits_of(visitor))
            session.portrait.history.set(settings.clean(session.edits, opening.settings))
            kept = sessions.put(visitor, session, visit)
            several = len(session.faces) > 1
            message = strings.SEVERAL.format(count=len(session.faces)) if several else strings.READY
            yield {
                **self.rendered(session, PHOTO_VIEW, message, sliders=False),
                self.download: _download(session, PHOTO_VIEW),
                **self.panel.show_own(session.portrait.history.current, sessions.edits(visitor), sliders=False),
                self.bar: gr.update(visible=True),
            }
        except Exception as error:
            sessions.drop(visitor)
            yield {**self._empty(), self.status: note("error", explain(error))}
        finally:  # also where the page was closed meanwhile
            if session is not None and not kept:
                session.store.clear_later()

    # --- sliders ---------------------------------------------------------------------------------------------------

    def on_move(self, request: gr.Request, revision: float, view: str, *values: object) -> dict:
        """A slider moved."""
        session = self.state.sessions.get(request.session_hash)
        edits = self.state.edits_of(request.session_hash)
        strengths = self.panel.read(values, edits)
        if session is None:
            message = {} if self._await_photo(request, strengths) else self._no_photo(revision)
            return {**message, **self.panel.show(strengths, edits, sliders=False)}
        if not _is_news(session, revision, strengths):
            return {self.status: gr.skip()}
        session.portrait.history.record(strengths)
        return self.answer(session, view, sliders=False, quick=True)

    async def on_rest(self, request: gr.Request) -> dict:
        """The picture of a slider's place is shown: if it stays there, the same follows without loss."""
        session = self.state.sessions.get(request.session_hash)
        preview = session and session.preview
        if preview is not None:
            await asyncio.sleep(FINAL_SECONDS)
            if session.preview is preview:
                pictures = await asyncio.to_thread(work.finalize, session, preview)
                if session.preview is preview:
                    return {self.viewer: gr.update(value=pictures_value(*pictures))}
        return {self.viewer: gr.skip()}

    def on_view(self, request: gr.Request, revision: float, view: str) -> dict:
        """The view was switched."""
        session = self.state.sessions.get(request.session_hash)
        if session is None:
            return self.no_photo(request, revision)
        return {**self.answer(session, view, sliders=False), self.download: _download(session, view)}

    def on_reset(self, request: gr.Request, revision: float, view: str) -> dict:
        """All sliders go to 0."""
        return self._set(request, revision, view, {})

    def on_preset(self, request: gr.Request, event: gr.SelectData, revision: float, view: str) -> dict:
        """All sliders go where a preset has them."""
        return self._set(request, revision, view, self.panel.presets[event.index][1])

    def on_undo(self, request: gr.Request, revision: float, view: str) -> dict:
        """Back by one step."""
        return self._step(request, revision, view, "undo")

    def on_redo(self, request: gr.Request, revision: float, view: str) -> dict:
        """Forward by one step."""
        return self._step(request, revision, view, "redo")

    def _step(self, request: gr.Request, revision: float, view: str, step: str) -> dict:
        session = self.state.sessions.get(request.session_hash)
        if session is None:
            return self.no_photo(request, revision)
        getattr(session.portrait.history, step)()
        return self.answer(session, view)

    def _set(self, request: gr.Request, revision: float, view: str, strengths: Mapping[str, float]) -> dict:
        """All sliders go where they are told."""
        session = self.state.sessions.get(request.session_hash)
        edits = self.state.edits_of(request.session_hash)
        strengths = settings.clean(edits, strengths)
        if session is None:
            message = {} if self._await_photo(request, strengths) else self.no_photo(request, revision)
            return {**message, **self.panel.show(strengths, edits)}
        session.portrait.history.set(strengths)
        return self.answer(session, view)

    def _await_photo(self, request: gr.Request, strengths: Mapping[str, float]) -> bool:
        """Keep settings for the photo that is being read, if one is; whether that is so."""
        opening = self.state.sessions.opening(request.session_hash)
        if opening is not None:
            opening.settings = strengths
        return opening is not None

    # --- results and settings ------------------------------------------------------------------------------------

    def on_download(
        self, request: gr.Request, revision: float, view: str, file_format: str, mark: bool, *values: object
    ) -> dict:
        """Makes the file that the browser fetches next."""
        session = self.state.sessions.get(request.session_hash)
        if session is None:
            return {**self.no_photo(request, revision), self.file: None}
        try:
            suffix = FORMAT_CHOICES[file_format]
            strengths = self.panel.read(values, session.edits)
            return {self.file: work.export_result(self.state, session, strengths, view, suffix, visible_mark=mark)}
        except Exception as error:
            return {self.status: note("error", explain(error)), self.file: None}

    def on_animate(self, request: gr.Request, revision: float, key: str, kind: str, *values: object) -> Iterator[dict]:
        """Makes an animation of one edit."""
        session = self.state.sessions.get(request.session_hash)
        if session is None:
            yield self.no_photo(request, revision)
            return
        try:
            total = work.SWEEP_FRAMES
            yield {self.status: note("busy", strings.ANIMATING.format(done=1, total=total))}
            strengths = self.panel.read(values, session.edits)
            steps = work.animate(self.state, session, strengths, key, animation_formats()[kind])
            while True:
                with self.state.queue.join(request.session_hash) as place:  # others may move a slider between pictures
                    for standing in place.wait():
                        yield {self.status: note("busy", strings.in_line(*standing))}
                    step = next(steps, None)
                if step is None:
                    break
                done, path = step
                if path is None:
                    message = strings.ANIMATING.format(done=min(done + 1, total), total=total)
                    yield {self.status: note("busy", message)}
                else:
                    yield {
                        self.status: note("ready", strings.ANIMATED),
                        self.animation: gr.update(value=file_value(path), visible=True),
                        self.animation_file: gr.update(value=path, visible=True),
                    }
        except Exception as error:
            yield {self.status: note("error", explain(error))}

    def on_save(self, request: gr.Request, *values: object) -> str:
        """The text of a settings file."""
        return settings.to_json(self.panel.read(values, self.state.edits_of(request.session_hash)))

    def on_share(self, *values: object) -> tuple[str, dict, str]:
        """The query of a link; the browser makes the link of it. Edits of one's own are for no one else."""
        query = settings.to_query(self.panel.read(values, self.state.edits))
        return query, gr.update(visible=True), note("ready", strings.LINK)

    def on_load(self, request: gr.Request, file: dict, revision: float, view: str) -> dict:
        """A settings file was chosen."""
        try:
            content = self.state.received.path(file).read_bytes()
            self.state.received.discard(file)
            strengths, unknown = settings.from_json(content, self.state.edits_of(request.session_hash))
        except GRAError as error:
            return {self.status: note("error", str(error))}
        message = strings.LOADED.format(settings=describe(strengths, self.state.edits_of(request.session_hash)))
        if unknown:
            message += strings.UNKNOWN.format(names=", ".join(unknown)[:200])
        shown = self._set(request, revision, view, strengths)
        kind = "ready" if self.status in shown else "busy"  # while a photo is being read
        return {**shown, self.status: note(kind, message)}

    # --- what the page shows -------------------------------------------------------------------------------------

    def answer(self, session: Session, view: str, message: str | None = strings.READY, **options: bool) -> dict:
        """As `rendered`, or a message why there is no new picture."""
        try:
            return self.rendered(session, view, message, **options)
        except Exception as error:
            return {self.status: note("error", explain(error))}

    def rendered(
        self,
        session: Session,
        view: str,
        message: str | None = strings.READY,
        *,
        sliders: bool = True,
        quick: bool = False,
    ) -> dict:
        """The page with the picture of the chosen face's settings.

        Args:
            session: the visitor's.
            view: FACE_VIEW or PHOTO_VIEW.
            message: what the line above the picture says; without one it stays as it is.
            sliders: whether to set the sliders, too: not those that a hand is on.
            quick: whether a small picture will do until `on_rest`.
        """
        history = session.portrait.history
        pictures = work.render(self.state, session, history.current, view, quick=quick)
        return {
            self.revision: history.revision,
            self.status: note("ready", message) if message else gr.skip(),
            self.viewer: gr.update(value=pictures_value(*pictures), visible=True),
            **self.panel.reflect(history, session.edits, sliders=sliders),
        }

    def _opened(self, session: Session) -> dict:
        """The page with a photo in it."""
        several = len(session.faces) > 1
        return {
            self.notes: gr.update(value=note("ready", " ".join(session.notes)), visible=bool(session.notes)),
            self.upload: gr.update(visible=False),
            self.welcome: gr.update(visible=False),
            self.faces: gr.update(value=_faces(session) if several else None, visible=several),
            self.view: PHOTO_VIEW,
            self.animation: gr.update(value=None, visible=False),
            self.animation_file: gr.update(value=None, visible=False),
        }

    def _empty(self) -> dict:
        """The page without a photo."""
        return {
            self.revision: 0,
            self.notes: gr.update(value="", visible=False),
            self.upload: gr.update(value=None, visible=True),
            self.viewer: gr.update(value=None, visible=False),
            self.faces: gr.update(value=None, visible=False),
            self.bar: gr.update(visible=False),
            self.welcome: gr.update(visible=True),
            self.animation: gr.update(value=None, visible=False),
            self.animation_file: gr.update(value=None, visible=False),
            self.panel.undo: gr.update(interactive=False),
            self.panel.redo: gr.update(interactive=False),
        }

    def no_photo(self, request: gr.Request, revision: float) -> dict:
        """The page when there is nothing to edit: not yet, or not any more."""
        return {**self._no_photo(revision), **(self.own.show(request, {}) if revision else {})}

    def _no_photo(self, revision: float) -> dict:
        """As `no_photo`; sliders of edits that are gone go, lists that name them follow later."""
        if revision:
            hidden = {slot: gr.update(visible=False) for slot in self.panel.slots}
            return {**self._empty(), **hidden, self.status: note("error", strings.EXPIRED)}
        return {self.status: note("ready", strings.WAITING)}


def _faces(session: Session, chosen: int | None = None) -> dict[str, object]:
    """Value of the face picker; `chosen` is about to become the session's face."""
    names = [f"Face {number}" for number in range(1, len(session.faces) + 1)]
    return picker_value(names, session.thumbnails(), session.index if chosen is None else chosen)


def _download(session: Session, view: str) -> dict:
    """The download button, which says how large the result is."""
    width, height = session.size(view)
    return gr.update(value=f"{strings.DOWNLOAD} ({width:,} x {height:,})")


def _is_news(session: Session, revision: float, strengths: Mapping[str, float]) -> bool:
    """Whether sliders ask for another picture: not so at the end of a drag that is shown already, or when too late."""
    history = session.portrait.history
    return revision == history.revision and strengths != history.current
