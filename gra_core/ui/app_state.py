"""State that all visitors share: registry of edits, face aligner, editor and its queue, CLIP, sessions."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import safe_open

from gra_core import sandbox
from gra_core.alignment import FaceAligner
from gra_core.checkpoints import DIRECTIONS, GENERATOR, CheckpointSource
from gra_core.compositing import compose
from gra_core.directions.registry import EditDirection, load_directions
from gra_core.images import load_image
from gra_core.memory import give_back_memory
from gra_core.ui import custom_edits, gpu
from gra_core.ui.admission import AdmissionQueue
from gra_core.ui.examples import example_files
from gra_core.ui.model_threads import ModelThreads
from gra_core.ui.received import Received
from gra_core.ui.session_store import SessionStore

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from gra_core.compositing import EditOutput
    from gra_core.directions.text import TextDirections
    from gra_core.editor import Inversion
    from gra_core.models.generator import Generator

MAPPERS = "GRA_MAPPERS"
"""Environment variable: StyleCLIP mapper checkpoints to offer as sliders; see `custom_edits.load_mappers`."""

HOUSEKEEPING_SECONDS = 15.0

log = logging.getLogger(__name__)


class EditorInterface(Protocol):
    """What the page needs of an editor: `PortraitEditor` is one, and so is one whose card is lent (`gpu`).

    Attributes:
        edits: what it can do, by key.
        average_code: code of the average face, (512,) float32.
        generator: for edits in words.
    """

    edits: Mapping[str, EditDirection]
    average_code: np.ndarray
    generator: Generator

    def invert(self, aligned: Image.Image, pause: Callable[[], None] = ...) -> Inversion:
        """As `PortraitEditor.invert`."""

    def render(
        self,
        inversion: Inversion,
        strengths: Mapping[str, float],
        edits: Mapping[str, EditDirection] | None = None,
    ) -> EditOutput:
        """As `PortraitEditor.render`."""


def load_editor() -> EditorInterface:
    """The editor with its default weights. Raises CheckpointError."""
    from gra_core.editor import PortraitEditor  # noqa: PLC0415 - slow, and not needed to show the page

    editor = PortraitEditor.from_pretrained(device="cpu" if gpu.on_loan() else None)
    if os.environ.get(MAPPERS):
        editor.edits |= load_registry()
    return gpu.LoanedEditor(editor) if gpu.on_loan() else editor


def load_registry() -> dict[str, EditDirection]:
    """The edits of the same weights, and the mappers that the operator adds. Raises CheckpointError."""
    files = CheckpointSource()
    edits = load_directions(files.path(DIRECTIONS))
    if sources := os.environ.get(MAPPERS):
        with safe_open(files.path(GENERATOR), framework="numpy") as file:
            average = file.get_tensor("mean_w")
        edits |= custom_edits.load_mappers(sources, average, edits)
    return edits


def load_words() -> TextDirections:
    """CLIP for edits in words; downloads it the first time. Raises MissingPackageError."""
    from gra_core.directions.text import TextDirections  # noqa: PLC0415 - slow, and mostly not needed

    return TextDirections.from_pretrained()


class AppState:
    """The registry, the face finder and the editor, each loaded once; and every visitor's session.

    Args:
        load_editor: makes the editor; called at most once, unless it raises.
        load_registry: reads the edits.
        load_words: makes what turns words into edits; called when the first visitor asks for it.
        sessions: where sessions are kept; by default a store with the usual limits.
    """

    def __init__(
        self,
        load_editor: Callable[[], EditorInterface] = load_editor,
        load_registry: Callable[[], dict[str, EditDirection]] = load_registry,
        load_words: Callable[[], TextDirections] = load_words,
        sessions: SessionStore | None = None,
    ) -> None:
        self._load_editor = load_editor
        self._load_registry = load_registry
        self._load_words = load_words
        self._words: tuple[TextDirections, Generator] | None = None
        self._words_lock = threading.Lock()
        self.aligner = FaceAligner()
        self.sessions = SessionStore() if sessions is None else sessions  # one without visits counts as False
        self.queue = AdmissionQueue(stays=lambda visitor: self.sessions.get(visitor) is not None)
        self.received = Received()
        self._threads = ModelThreads()
        self._editor: EditorInterface | None = None
        self._lock = threading.Lock()

    @cached_property
    def edits(self) -> dict[str, EditDirection]:
        """The edits in slider order. Raises CheckpointError."""
        return self._load_registry()

    @property
    def editor(self) -> EditorInterface:
        """The editor; the first call loads it while others wait. Raises CheckpointError."""
        with self._lock:
            if self._editor is None:
                self._editor = self._load_editor()
            return self._editor

    def edits_of(self, visitor: str | None) -> dict[str, EditDirection]:
        """The edits that a visitor can choose from: the shared ones, then the visitor's own."""
        return self.edits | self.sessions.edits(visitor)

    def describe_edit(self, neutral: str, target: str) -> EditDirection:
        """The edit that leads from one description to another.

        Made on the CPU from a copy of the generator: gradients are taken of it while others edit.

        Raises:
            GRAError: the descriptions cannot be used, or CLIP cannot be had.
        """
        with self._words_lock:
            if self._words is None:
                words = self._load_words()
                self._words = words, copy.deepcopy(self.editor.generator).to("cpu")
            words, generator = self._words
            return words.direction(generator, neutral, target)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, which runs nets, in one of few threads (`ModelThreads`)."""
        return self._threads.run(function, *arguments)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As `compute`, of `function(editor, *arguments)`, on the card where one is lent."""
        editor = self.editor
        return editor.run(function, *arguments) if gpu.on_loan() else self.compute(function, editor, *arguments)

    def keep_house(self) -> None:
        """From now on, every HOUSEKEEPING_SECONDS: old visits and files go, and in quiet times so does freed memory."""
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()

    def _keep_house(self) -> None:
        tidy = False
        while True:
            time.sleep(HOUSEKEEPING_SECONDS)
            self.sessions.end_old_ones()
            with contextlib.suppress(OSError):  # the folder goes at the end of the run
                self.received.sweep()
            quiet = self.queue.idle_seconds() > HOUSEKEEPING_SECONDS
            if quiet and not tidy:
                give_back_memory()
            tidy = quiet

    def warm_up(self) -> threading.Thread:
        """Load everything and run it once on an example, in the background; returns the running thread.

        Where the card is lent, the weights are loaded at once: Spaces wants its functions known before the page starts.
        """
        if gpu.on_loan():
            self.editor  # noqa: B018 - loads it
        sandbox.warm_up()
        thread = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
        thread.start()
        return thread

    def _warm_up(self) -> None:
        try:
            editor = self.editor
            photo = load_image(example_files()[0])
            aligned = self.aligner.align_photo(photo)
            if not gpu.on_loan():  # a loan that nobody asked for would be counted all the same
                inversion, strengths = editor.invert(aligned.image), {next(iter(self.edits)): 1.0}
                durations = []
                for _ in range(4):  # the first ones are slow
                    begun = time.monotonic()
                    compose(photo, [(aligned, editor.render(inversion, strengths))])
                    durations.append(time.monotonic() - begun)
                self.queue.set_speed(min(durations))
        except Exception:  # the visitor's own request reports it
            log.exception("Warming up failed")
