"""What all visitors share: the registry of edits, the face finder, the editor and the sessions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gra_core.alignment import FaceAligner
from gra_core.checkpoints import DIRECTIONS, CheckpointSource
from gra_core.directions.registry import EditDirection, load_directions
from gra_core.images import load_image
from gra_core.ui import gpu
from gra_core.ui.examples import example_files
from gra_core.ui.visitors import Visitors

if TYPE_CHECKING:
    from gra_core.editor import PortraitEditor

log = logging.getLogger(__name__)


def load_editor() -> PortraitEditor:
    """The editor with its default weights. Raises CheckpointError."""
    from gra_core.editor import PortraitEditor  # noqa: PLC0415 - slow, and not needed to show the page

    if gpu.on_loan():
        return gpu.LoanedEditor(PortraitEditor.from_pretrained(device="cpu"))
    return PortraitEditor.from_pretrained()


def load_registry() -> dict[str, EditDirection]:
    """The edits of the same weights. Raises CheckpointError."""
    return load_directions(CheckpointSource().path(DIRECTIONS))


class Studio:
    """The registry, the face finder and the editor, each loaded once; and every visitor's session.

    Args:
        load_editor: makes the editor; called at most once, unless it raises.
        load_registry: reads the edits.
        visitors: where sessions are kept; by default a store with the usual limits.
    """

    def __init__(
        self,
        load_editor: Callable[[], PortraitEditor] = load_editor,
        load_registry: Callable[[], dict[str, EditDirection]] = load_registry,
        visitors: Visitors | None = None,
    ) -> None:
        self._load_editor = load_editor
        self._load_registry = load_registry
        self.aligner = FaceAligner()
        self.visitors = visitors or Visitors()
        self._editor: PortraitEditor | None = None
        self._lock = threading.Lock()

    @cached_property
    def edits(self) -> dict[str, EditDirection]:
        """The edits in slider order. Raises CheckpointError."""
        return self._load_registry()

    @property
    def editor(self) -> PortraitEditor:
        """The editor; the first call loads it while others wait. Raises CheckpointError."""
        with self._lock:
            if self._editor is None:
                self._editor = self._load_editor()
            return self._editor

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(editor, *arguments)`, on the card where one is lent."""
        editor = self.editor
        return editor.run(function, *arguments) if gpu.on_loan() else function(editor, *arguments)

    def warm_up(self) -> threading.Thread:
        """Load everything and run it once on an example, in the background; returns the running thread.

        Where the card is lent, the weights are loaded at once: Spaces wants its functions known before the page starts.
        """
        if gpu.on_loan():
            self.editor  # noqa: B018 - loads it
        thread = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
        thread.start()
        return thread

    def _warm_up(self) -> None:
        try:
            editor = self.editor
            aligned = self.aligner.align_photo(load_image(example_files()[0])).image
            if not gpu.on_loan():  # a loan that nobody asked for would be counted all the same
                editor.edit(editor.invert(aligned), {next(iter(self.edits)): 1.0})
        except Exception:  # the visitor's own request reports it
            log.exception("Warming up failed")
