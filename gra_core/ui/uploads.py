"""Files that visitors choose in a list, where they wait for the button below it. They go when the visit ends."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from gra_core.errors import GRAError
from gra_core.ui import words
from gra_core.ui.shelf import is_upload
from gra_core.ui.visitors import Visitors
from gra_core.ui.widgets import HERE

READ = (HERE / "paths.js").read_text(encoding="utf-8")
"""Script for events with `UploadList.inputs`: hands over where the files are. Gradio itself would refuse the files of a
run before this one, with no more than the word "Error"."""


class UploadList:
    """The files of one list.

    Args:
        visitors: whose visits the files belong to.
        files: the list; it takes several.
        purpose: name of the shelf that the files wait on.
    """

    def __init__(self, visitors: Visitors, files: gr.File, purpose: str) -> None:
        self.visitors, self.files, self.purpose = visitors, files, purpose
        self.inputs = [files, gr.Textbox(visible=False)]

    def connect(self, common: dict) -> None:
        """Wire the events of the list."""
        self.files.upload(self.on_upload, self.inputs, [self.files], js=READ, **common)
        self.files.delete(self.on_delete, None, None, **common)
        self.files.clear(self.on_clear, None, None, **common)

    def on_upload(self, request: gr.Request, _files: None, paths: str) -> list[str]:
        """Files were chosen."""
        return [str(path) for path in self.keep(request, [Path(path) for path in json.loads(paths)])]

    def on_delete(self, request: gr.Request, event: gr.DeletedFileData) -> None:
        """A file was taken out of the list."""
        shelf = self.visitors.shelf(request.session_hash, self.purpose)
        path = Path(event.file.path)
        if shelf.folder in path.parents:
            path.unlink(missing_ok=True)

    def on_clear(self, request: gr.Request) -> None:
        """The list was emptied."""
        self.visitors.new_shelf(request.session_hash, self.purpose)

    def keep(self, request: gr.Request, files: list[Path]) -> list[Path]:
        """Take files out of Gradio's folder, where they would stay after the visit; those of another list go.

        Raises:
            GRAError: one is not there any more.
        """
        shelf = self.visitors.shelf(request.session_hash, self.purpose)
        if not any(shelf.folder in file.parents for file in files):
            shelf = self.visitors.new_shelf(request.session_hash, self.purpose)
        return [shelf.take(file) for file in files]

    def read(self, request: gr.Request, paths: str) -> list[Path]:
        """Where the files of the list are.

        Args:
            request: the visitor's.
            paths: what READ tells: of files on the shelf, or still in Gradio's folder, if the button was quick.

        Raises:
            GRAError: the visit that they belonged to ended.
        """
        files = [Path(path) for path in json.loads(paths)]
        if not all(map(is_upload, files)):
            raise GRAError(words.GONE)
        shelf = self.visitors.shelf(request.session_hash, self.purpose)
        return [shelf.take(file) for file in files]
