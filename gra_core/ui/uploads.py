"""Files that visitors choose in a list, where they wait for the button below it. They go when the visit ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from gra_core.errors import GRAError
from gra_core.ui import strings
from gra_core.ui.received import Received
from gra_core.ui.session_store import SessionStore
from gra_core.ui.widgets import HERE

READ = (HERE / "paths.js").read_text(encoding="utf-8")
"""Script for events with `UploadList.inputs`: hands over where the files are. Gradio itself would refuse the files of a
run before this one, with no more than the word "Error"."""


class UploadList:
    """The files of one list.

    Args:
        received: all uploads.
        sessions: whose visits the files belong to.
        files: the list; it takes several.
        purpose: name of the store in which the files wait.
    """

    def __init__(self, received: Received, sessions: SessionStore, files: gr.File, purpose: str) -> None:
        self.received, self.sessions, self.files, self.purpose = received, sessions, files, purpose
        self.inputs = [files, gr.Textbox(visible=False)]

    def connect(self, common: dict) -> None:
        """Wire the events of the list."""
        self.files.upload(self.on_upload, self.inputs, [self.files], js=READ, **common)
        self.files.delete(self.on_delete, None, None, **common)
        self.files.clear(self.on_clear, None, None, **common)

    def on_upload(self, request: gr.Request, _files: None, names: str) -> list[str]:
        """Files were chosen."""
        return [str(path) for path in self.keep(request, named(names))]

    def on_delete(self, request: gr.Request, event: gr.DeletedFileData) -> None:
        """A file was taken out of the list."""
        path = self.sessions.store(request.session_hash, self.purpose).find(event.file.path)
        if path is not None:
            path.unlink(missing_ok=True)

    def on_clear(self, request: gr.Request) -> None:
        """The list was emptied."""
        self.sessions.new_store(request.session_hash, self.purpose)

    def keep(self, request: gr.Request, said: Sequence[object]) -> list[Path]:
        """Take the files that a client names out of the uploads, which go soon; those of another list go.

        Raises:
            GRAError: one is not there any more.
        """
        store = self.sessions.store(request.session_hash, self.purpose)
        if not any(map(store.find, said)):
            store = self.sessions.new_store(request.session_hash, self.purpose)
        return self._take(request, said)

    def read(self, request: gr.Request, names: str) -> list[Path]:
        """Where the files of the list are.

        Args:
            request: the visitor's.
            names: what READ tells: of files in the store, or of uploads, if the button was quick.

        Raises:
            GRAError: the visit that they belonged to ended.
        """
        return self._take(request, named(names))

    def _take(self, request: gr.Request, said: Sequence[object]) -> list[Path]:
        store = self.sessions.store(request.session_hash, self.purpose)
        return [store.find(one) or self.received.take(one, store) for one in said]


def named(names: object) -> list[object]:
    """Names of files, as the script READ lists them. Raises GRAError when it is something else."""
    try:
        said = json.loads(names) if isinstance(names, str) else None
    except (ValueError, RecursionError) as error:
        raise GRAError(strings.GONE) from error
    if not isinstance(said, list):
        raise GRAError(strings.GONE)
    return said
