"""The fold in which a visitor adds edits of their own: from files, and described in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import gradio as gr

from gra_core.directions.registry import EditDirection
from gra_core.ui import custom_edits, strings
from gra_core.ui.app_state import AppState
from gra_core.ui.panel import EditPanel
from gra_core.ui.session import Session
from gra_core.ui.temp_store import TempStore
from gra_core.ui.widgets import choices_of, explain, name_of, note

IN_WORDS_STRENGTH = 60
"""Where the slider of an edit in words stands at first: who describes an edit wants to see it."""


class Tab(Protocol):
    """The parts of the tab that the fold works with; see `gra_core.ui.edit_tab`."""

    state: AppState
    panel: EditPanel
    status: gr.HTML
    revision: gr.Number
    view: gr.Radio
    moved: gr.Dropdown

    def in_line(self, answer: Callable[..., dict | Iterator[dict]]) -> Callable[..., Iterator[dict]]:
        """The handler, once its turn has come."""

    def answer(self, session: Session, view: str, message: str | None = ...) -> dict:
        """The page with a new picture."""

    def no_photo(self, request: gr.Request, revision: float) -> dict:
        """The page without a photo."""


class CustomEditsPanel:
    """The answers to the fold's events; its widgets are the panel's.

    Args:
        tab: the tab that the fold is part of.
    """

    def __init__(self, tab: Tab) -> None:
        self.tab, self.state, self.panel, self.status = tab, tab.state, tab.panel, tab.status

    def connect(self, outputs: list, common: dict) -> None:
        """Wire the events; as the tab's, with its outputs and common options."""
        tab, panel, sliders = self.tab, self.panel, self.panel.sliders
        panel.file.upload(self.on_file, [panel.file, *sliders], outputs, **common)
        gr.on(
            [panel.describe.click, panel.target.submit],
            self.on_describe,
            [panel.neutral, panel.target, *sliders],
            outputs,
            # Not in the line of edits: it takes a while, and others can edit meanwhile.
            **common | {"concurrency_id": "words"},
        ).then(tab.in_line(self.on_added), [tab.revision, tab.view], outputs, **common)
        for index, remover in enumerate(panel.removers):
            remover.click(tab.in_line(self._remover(index)), [tab.revision, tab.view, *sliders], outputs, **common)

    def on_file(self, request: gr.Request, file: dict, *values: object) -> Iterator[dict]:
        """A file with an edit was chosen."""
        store = TempStore()
        try:
            path = self.state.received.take(file, store)  # before it waits in line
            yield from self.tab.in_line(self._read)(request, path, name_of(file, path.name), values)
        except Exception as error:
            yield {self.status: note("error", explain(error))}
        finally:
            store.clear()

    def on_describe(self, request: gr.Request, neutral: str, target: str, *values: object) -> Iterator[dict]:
        """An edit was described."""
        try:
            yield {self.status: note("busy", strings.DESCRIBING.format(target=target))}
            edit = self.state.describe_edit(neutral or strings.NEUTRAL, target or "")
            yield self._add(request, edit, values, IN_WORDS_STRENGTH)
        except Exception as error:
            yield {self.status: note("error", explain(error))}

    def on_added(self, request: gr.Request, revision: float, view: str) -> dict:
        """An edit came with a strength: the picture follows, and what was said of the edit stays."""
        session = self.state.sessions.get(request.session_hash)
        shown = (0, session.portrait.history.revision) if session else ()  # 0: the photo came later, see `on_opened`
        if session is None or revision in shown:
            return {self.status: gr.skip()}
        return self.tab.answer(session, view, message=None)

    def on_remove(self, index: int, request: gr.Request, revision: float, view: str, *values: object) -> dict:
        """An edit of one's own is not wanted any more."""
        sessions, visitor = self.state.sessions, request.session_hash
        strengths = self.panel.read(values, self.state.edits_of(visitor))
        removed = list(sessions.edits(visitor))[index : index + 1]
        for key in removed:
            sessions.remove_edit(visitor, key)
            strengths.pop(key, None)
        edits = self.state.edits_of(visitor)
        session = sessions.get(visitor)
        if session is not None:
            for portrait in session.portraits.values():
                for key in removed:
                    portrait.history.forget(key)
            session = replace(session, edits=edits)
            sessions.put(visitor, session)
            shown, strengths = self.tab.answer(session, view, strings.REMOVED), session.portrait.history.current
        elif revision:
            shown, strengths = self.tab.no_photo(request, revision), {}
        else:
            shown = {**self.panel.show(strengths, edits), self.status: note("ready", strings.REMOVED)}
        return {**shown, **self.show(request, strengths)}

    def show(self, request: gr.Request, strengths: Mapping[str, float]) -> dict:
        """Changes on the page when edits of the visitor's own come or go."""
        own = self.state.sessions.edits(request.session_hash)
        choices = choices_of(self.state.edits | own)
        chosen = gr.update(choices=choices, value=choices[0][1])
        return {**self.panel.show_own(strengths, own), self.tab.moved: chosen}

    def _read(self, request: gr.Request, path: Path, name: str, values: tuple[object, ...]) -> Iterator[dict]:
        """An edit from a file."""
        yield {self.status: note("busy", strings.READING.format(name=name))}
        edit = custom_edits.read_edit(path, name, self.state.editor.average_code)
        yield self._add(request, edit, values)

    def _add(self, request: gr.Request, edit: EditDirection, values: tuple[object, ...], strength: float = 0) -> dict:
        """Keep an edit for the visitor; what changes on the page, but for the picture."""
        sessions, visitor = self.state.sessions, request.session_hash
        strengths = self.panel.read(values, self.state.edits_of(visitor))
        edit = sessions.add_edit(visitor, edit, self.state.edits)
        session = sessions.get(visitor)
        if session is not None:
            session = replace(session, edits=self.state.edits_of(visitor))
            sessions.put(visitor, session)
            strengths = session.portrait.history.current
        if strength:
            strengths = {**strengths, edit.key: strength}
            if session is not None:
                session.portrait.history.set(strengths)
        return {self.status: note("ready", strings.ADDED.format(label=edit.label)), **self.show(request, strengths)}

    def _remover(self, index: int) -> Callable[..., dict]:
        """The handler of one button; Gradio reads its annotations, which rules `functools.partial` out."""

        def on_remove(request: gr.Request, revision: float, view: str, *values: object) -> dict:
            return self.on_remove(index, request, revision, view, *values)

        return on_remove
