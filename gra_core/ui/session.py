"""A visitor's photo and what is made of it: open, choose a face, render, export, animate.

Nothing here is global: everything about a visitor's photo hangs on that visitor's `Session`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gra_core import export
from gra_core.alignment import AlignedFace, Face
from gra_core.compositing import EditOutput, View, close_up_side, compose
from gra_core.constants import IMAGE_SIZE
from gra_core.directions.registry import EditDirection
from gra_core.images import Photo, read_photo
from gra_core.ui.gpu import size_in_bytes
from gra_core.ui.history import History
from gra_core.ui.temp_store import TempStore

if TYPE_CHECKING:
    from gra_core.editor import Inversion
    from gra_core.ui.app_state import AppState

FACE_VIEW = "Face"
PHOTO_VIEW = "Whole photo"
PREVIEW_SIDE = 1600
"""Longest side of the whole photo on the page, in pixels; the download has the photo's own size."""
THUMBNAIL_SIDE = 160
SWEEP_FRAMES = 9
SWEEP_SIDE = 512
"""Frames from one end of a slider to the other, and side of an animation in pixels."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """One face of a photo, ready for slider moves."""

    aligned: AlignedFace
    inversion: Inversion
    history: History = field(default_factory=History)


@dataclass(frozen=True, eq=False)
class Session:
    """A visitor's photo and all that was computed of it.

    Attributes:
        photo: RGB, upright, full size.
        alpha: its opacity, mode L; None where all is opaque.
        notes: sentences on what was done to the photo.
        name: the file's name on the visitor's side, without its suffix.
        faces: all faces, largest first.
        store: where the pictures lie that the browser sees.
        edits: the edits that this visitor has, by key: the shared ones, then the visitor's own.
        index: the face that the sliders edit.
        portraits: inversions so far, by face index.
    """

    photo: Image.Image
    name: str
    faces: tuple[Face, ...]
    store: TempStore
    edits: Mapping[str, EditDirection]
    index: int = 0
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()
    portraits: dict[int, Portrait] = field(default_factory=dict)
    _others: dict[int, tuple[Mapping[str, float], EditOutput]] = field(default_factory=dict)
    _previews: list[Image.Image] = field(default_factory=list)

    @property
    def preview(self) -> Image.Image | None:
        """The result that the page shows with some loss, if so: `finalize` brings the one without."""
        return self._previews[-1] if self._previews else None

    def drop_preview(self) -> None:
        """The page shows something else instead."""
        self._previews.clear()

    @property
    def original(self) -> Photo:
        """The photo as it was read."""
        return Photo(self.photo, self.alpha, self.notes)

    @property
    def portrait(self) -> Portrait:
        """The chosen face."""
        return self.portraits[self.index]

    @property
    def nbytes(self) -> int:
        """Memory that the session takes, without small things."""
        portraits = sum(
            size_in_bytes(portrait.inversion) + size_in_bytes(portrait.aligned.image)
            for portrait in list(self.portraits.values())
        )
        others = sum(size_in_bytes(output) for _, output in list(self._others.values()))
        previews = sum(map(size_in_bytes, list(self._previews)))
        return size_in_bytes(self.photo) + size_in_bytes(self.alpha) + portraits + others + previews

    @cached_property
    def preview_view(self) -> View:
        """The photo, at most PREVIEW_SIDE pixels along its longer side."""
        return View.whole(self.photo, PREVIEW_SIDE)

    def size(self, view: str) -> tuple[int, int]:
        """Width and height of the result that is downloaded."""
        return self.photo.size if view == PHOTO_VIEW else (close_up_side(self.portrait.aligned),) * 2

    def thumbnails(self) -> list[Image.Image]:
        """One small square picture per face, largest face first."""
        return [_thumbnail(self.photo, face) for face in self.faces]

    def settings_of_others(self) -> dict[int, dict[str, float]]:
        """Settings of the faces that were edited, other than the chosen one."""
        others = {index: p.history.current for index, p in self.portraits.items() if index != self.index}
        return {index: strengths for index, strengths in others.items() if strengths}


def open_photo(state: AppState, source: str | Path | Photo, name: str, root: str | Path | None = None) -> Session:
    """Read a photo and find its faces.

    Args:
        state: the shared parts.
        source: the uploaded file, or a photo that was read before.
        name: the file's name on the visitor's side.
        root: the folder for the files of the session; see `TempStore`.

    Raises:
        UnreadableImageError: the file is not a picture.
        NoFaceError: nobody is in it.
    """
    photo, faces = state.aligner.find(source if isinstance(source, Photo) else read_photo(source))
    session = Session(photo.image, Path(name).stem, tuple(faces), TempStore(root), state.edits)
    return replace(session, alpha=photo.alpha, notes=photo.notes)


def align_face(state: AppState, session: Session, index: int) -> AlignedFace:
    """The 1024 x 1024 crop of one face. Raises FaceTooSmallError."""
    known = session.portraits.get(index)
    return known.aligned if known else state.aligner.align(session.photo, session.faces[index])


def show_before(session: Session, view: str, aligned: AlignedFace, index: int) -> str:
    """File of a view of the photo as it is: whole, or of the face `index`."""
    if view == PHOTO_VIEW:
        return session.store.keep(session.preview_view.picture, "photo.jpg")
    return session.store.keep(aligned.image, f"face-{index}.webp")


def choose_face(
    state: AppState, session: Session, index: int, aligned: AlignedFace, history: History | None = None
) -> Session:
    """The session with another face chosen; inverts it when that was not done before. Raises CheckpointError.

    Args:
        state: the shared parts.
        session: the visitor's.
        index: of the face.
        aligned: from `align_face`.
        history: settings of a face that was not inverted before; those of one that was stay its own.
    """
    if index not in session.portraits:
        inversion = state.compute(state.editor.invert, aligned.image, state.queue.give_way)
        session.portraits[index] = Portrait(aligned, inversion, history or History())
    return replace(session, index=index)


def render(
    state: AppState, session: Session, strengths: Mapping[str, float], view: str, *, quick: bool = False
) -> tuple[str, str]:
    """Files of the pictures before and after, of one size, for the page.

    The whole photo at PREVIEW_SIDE at most, or the face at 1024 x 1024 without loss. A quick result has a quarter of
    the bytes, for what is looked at in passing; `finalize` then gives the face without loss.
    """
    aligned, whole = session.portrait.aligned, view == PHOTO_VIEW
    shown = session.preview_view if whole else View.close_up(session.photo, aligned, IMAGE_SIZE)
    result = state.compute(_drawn, state, session, shown, strengths)
    session._previews[:] = [result] if quick and not whole else []
    suffix = (".jpg",) if whole or quick else ()
    return show_before(session, view, aligned, session.index), session.store.put(result, *suffix)


def finalize(session: Session, preview: Image.Image) -> tuple[str, str]:
    """As `render`, of a result of the chosen face that was shown as a preview."""
    return show_before(session, FACE_VIEW, session.portrait.aligned, session.index), session.store.put(preview)


def export_result(
    state: AppState,
    session: Session,
    strengths: Mapping[str, float],
    view: str,
    suffix: str = ".png",
    *,
    visible_mark: bool = False,
) -> str:
    """Path of a picture of the result at the photo's own size, named after the photo and the edits."""
    whole = view == PHOTO_VIEW
    if whole:
        export.check_size(session.photo.size, suffix)
    shown = View.whole(session.photo) if whole else View.close_up(session.photo, session.portrait.aligned)
    result = state.compute(_drawn, state, session, shown, strengths)
    if whole:
        result = session.original.transparent(result)
    note = export.describe(strengths, session.edits)
    return session.store.put_file(
        export.result_name(session.name, strengths, suffix),
        lambda part: export.save_picture(result, part, suffix, note, visible_mark=visible_mark),
    )


def animate(
    state: AppState, session: Session, strengths: Mapping[str, float], key: str, suffix: str
) -> Iterator[tuple[int, str | None]]:
    """Make an animation of one edit from end to end, the other sliders as they are.

    Yields the number of finished frames with None, at last with the path of the file.
    """
    edit = session.edits[key]
    frames, shown = [], View.close_up(session.photo, session.portrait.aligned, SWEEP_SIDE)
    for value in export.sweep_values(edit, SWEEP_FRAMES):
        frames.append(state.compute(_drawn, state, session, shown, {**strengths, key: value}))
        yield len(frames), None
    name = export.result_name(session.name, {}, "").replace("-unedited", f"-{key}-sweep") + suffix
    note = f"{edit.label} from {edit.minimum:g} to {edit.maximum:g}"
    yield len(frames), session.store.put_file(name, lambda part: export.save_sweep(frames, part, note))


def _drawn(state: AppState, session: Session, view: View, strengths: Mapping[str, float]) -> Image.Image:
    """A view of the photo with the chosen face edited, and the others as they were edited before."""
    outputs = {session.index: state.editor.render(session.portrait.inversion, strengths, session.edits)}
    others = session.settings_of_others()
    for index, settings in others.items():
        known, output = session._others.get(index, (None, None))
        if known != settings:
            output = state.editor.render(session.portraits[index].inversion, settings, session.edits)
            session._others[index] = settings, output
        outputs[index] = output
    for index in session._others.keys() - others.keys():
        del session._others[index]
    edits = [(session.portraits[index].aligned, output) for index, output in outputs.items()]
    return compose(view, edits, session.faces)


def _thumbnail(photo: Image.Image, face: Face) -> Image.Image:
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top) * 1.5
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    box = tuple(round(v) for v in (centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2))
    return photo.crop(box).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
