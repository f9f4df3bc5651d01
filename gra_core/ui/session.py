"""What the page does, apart from its widgets: open a photo, invert a face, render edits, keep the files tidy.

Nothing here is global: everything about a visitor's photo hangs on that visitor's `Session`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gra_core.alignment import AlignedFace, Face, FaceAligner, paste_back
from gra_core.checkpoints import DIRECTIONS, CheckpointSource
from gra_core.constants import IMAGE_SIZE
from gra_core.directions.registry import EditDirection, load_directions
from gra_core.images import load_image

if TYPE_CHECKING:
    from gra_core.editor import Inversion, PortraitEditor

FACE_VIEW = "Face"
PHOTO_VIEW = "Whole photo"
PREVIEW_SIDE = 1600
"""Longest side of the whole photo on the page, in pixels; the download has the photo's own size."""
THUMBNAIL_SIDE = 160
KEPT_FILES = 8
"""Results of the same visitor that stay on disk, so that a browser still loading an older one finds it."""

log = logging.getLogger(__name__)


def load_editor() -> PortraitEditor:
    """The editor with its default weights. Raises CheckpointError."""
    from gra_core.editor import PortraitEditor  # noqa: PLC0415 - slow, and not needed to show the page

    return PortraitEditor.from_pretrained()


def load_registry() -> dict[str, EditDirection]:
    """The edits of the same weights. Raises CheckpointError."""
    return load_directions(CheckpointSource().path(DIRECTIONS))


class Studio:
    """The parts that all visitors share: the registry, the face finder and the editor, each loaded once.

    Args:
        load_editor: makes the editor; called at most once, unless it raises.
        load_registry: reads the edits.
    """

    def __init__(
        self,
        load_editor: Callable[[], PortraitEditor] = load_editor,
        load_registry: Callable[[], dict[str, EditDirection]] = load_registry,
    ) -> None:
        self._load_editor = load_editor
        self._load_registry = load_registry
        self.aligner = FaceAligner()
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

    def warm_up(self) -> threading.Thread:
        """Load everything and run it once on an empty picture, in the background; returns the running thread."""
        thread = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
        thread.start()
        return thread

    def _warm_up(self) -> None:
        try:
            editor = self.editor
            inversion = editor.invert(Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "gray"))
            editor.edit(inversion, {next(iter(self.edits)): 1.0})
        except Exception:  # the visitor's own request reports it
            log.exception("Warming up failed")


@dataclass(frozen=True, eq=False)
class Portrait:
    """One face of a photo, ready for slider moves."""

    aligned: AlignedFace
    inversion: Inversion


class Shelf:
    """A folder of pictures that the browser fetches; its name cannot be guessed.

    Args:
        root: the folder that it is made in, one from which the page may serve files.
    """

    def __init__(self, root: str | Path) -> None:
        self.folder = Path(root) / secrets.token_hex(16)
        self._recent: deque[Path] = deque()

    def keep(self, image: Image.Image, name: str) -> str:
        """Write a picture that stays until the shelf is cleared, or refresh its age; returns the path."""
        path = self.folder / name
        if path.exists():
            os.utime(path)
        else:
            self._write(image, path)
        return str(path)

    def put(self, image: Image.Image) -> str:
        """Write a picture under a fresh name; the oldest of more than KEPT_FILES goes. Returns the path."""
        path = self.folder / f"{secrets.token_hex(6)}.jpg"
        self._write(image, path)
        self._recent.append(path)
        while len(self._recent) > KEPT_FILES:
            self._recent.popleft().unlink(missing_ok=True)
        return str(path)

    def clear(self) -> None:
        """Delete all files."""
        self._recent.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, image: Image.Image, path: Path) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.suffix == ".png":
            image.save(path, compress_level=3)
        else:
            image.save(path, quality=93, subsampling=0)


@dataclass(frozen=True, eq=False)
class Session:
    """A visitor's photo and all that was computed of it.

    Attributes:
        photo: RGB, upright, full size.
        name: the file's name without its suffix, fit for a download.
        faces: all faces, largest first.
        shelf: where the pictures lie that the browser sees.
        index: the face that the sliders edit.
        portraits: inversions so far, by face index.
    """

    photo: Image.Image
    name: str
    faces: tuple[Face, ...]
    shelf: Shelf
    index: int = 0
    portraits: dict[int, Portrait] = field(default_factory=dict)

    @property
    def portrait(self) -> Portrait:
        """The chosen face."""
        return self.portraits[self.index]

    @cached_property
    def preview(self) -> Image.Image:
        """The photo, at most PREVIEW_SIDE pixels along its longer side."""
        scale = min(1.0, PREVIEW_SIDE / max(self.photo.size))
        size = (round(self.photo.width * scale), round(self.photo.height * scale))
        return self.photo if size == self.photo.size else self.photo.resize(size, Image.Resampling.LANCZOS)

    def thumbnails(self) -> list[Image.Image]:
        """One small square picture per face, largest face first."""
        return [_thumbnail(self.photo, face) for face in self.faces]


def open_photo(studio: Studio, path: str | Path, name: str, root: str | Path) -> Session:
    """Read a photo and find its faces.

    Args:
        studio: the shared parts.
        path: the uploaded file.
        name: the file's name on the visitor's side.
        root: a folder from which the page may serve files.

    Raises:
        UnreadableImageError: the file is not a picture.
        NoFaceError: nobody is in it.
    """
    photo = load_image(path)
    faces = tuple(studio.aligner.detect(photo))
    stem = re.sub(r"[^\w.-]+", "-", Path(name).stem).strip("-.")[:40]
    return Session(photo=photo, name=stem or "portrait", faces=faces, shelf=Shelf(root))


def align_face(studio: Studio, session: Session, index: int) -> AlignedFace:
    """The 1024 x 1024 crop of one face. Raises FaceTooSmallError."""
    known = session.portraits.get(index)
    return known.aligned if known else studio.aligner.align(session.photo, session.faces[index])


def show_crop(session: Session, aligned: AlignedFace, index: int) -> str:
    """File of a face as it was cut out of the photo."""
    return session.shelf.keep(aligned.image, f"face-{index}.jpg")


def choose_face(studio: Studio, session: Session, index: int, aligned: AlignedFace) -> Session:
    """The session with another face chosen; inverts it when that was not done before. Raises CheckpointError."""
    if index not in session.portraits:
        session.portraits[index] = Portrait(aligned, studio.editor.invert(aligned.image))
    return replace(session, index=index)


def read_strengths(edits: Mapping[str, EditDirection], values: tuple[object, ...]) -> dict[str, float]:
    """Slider values by edit name, in range; an emptied number box counts as 0, zeros are left out."""
    strengths = {}
    for edit, value in zip(edits.values(), values, strict=True):
        number = float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
        number = min(max(number, edit.minimum), edit.maximum)
        if number:
            strengths[edit.key] = number
    return strengths


def render(studio: Studio, session: Session, strengths: Mapping[str, float], view: str) -> tuple[str, str]:
    """Files of the pictures before and after, for the page.

    The face at 1024 x 1024, or the whole photo at PREVIEW_SIDE at most.
    """
    portrait = session.portrait
    result = studio.editor.edit(portrait.inversion, strengths)
    if view == FACE_VIEW:
        return show_crop(session, portrait.aligned, session.index), session.shelf.put(result)
    preview = session.preview
    scale = (preview.width / session.photo.width, preview.height / session.photo.height)
    whole = paste_back(preview, result, replace(portrait.aligned, quad=portrait.aligned.quad * scale))
    return session.shelf.keep(preview, "photo.jpg"), session.shelf.put(whole)


def export(studio: Studio, session: Session, strengths: Mapping[str, float], view: str) -> str:
    """Path of a PNG of the result at full size, named after the photo and the edits."""
    portrait = session.portrait
    result = studio.editor.edit(portrait.inversion, strengths)
    if view == PHOTO_VIEW:
        result = paste_back(session.photo, result, portrait.aligned)
    settings = "".join(f"-{key}{value:+g}" for key, value in strengths.items()) or "-unedited"
    name = f"{session.name}{settings}"[:120] + ".png"
    (session.shelf.folder / name).unlink(missing_ok=True)
    return session.shelf.keep(result, name)


def forget(session: Session | None, after: float = 0.0) -> None:
    """Delete the files of a visitor who left or took another photo, `after` so many seconds.

    A little patience lets a browser finish loading the last result.
    """
    if session is None:
        return
    if not after:
        session.shelf.clear()
        return
    timer = threading.Timer(after, session.shelf.clear)
    timer.daemon = True  # at the end of the program Gradio deletes what it served
    timer.start()


def _thumbnail(photo: Image.Image, face: Face) -> Image.Image:
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top) * 1.5
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    box = tuple(round(v) for v in (centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2))
    return photo.crop(box).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
