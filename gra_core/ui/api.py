"""Named endpoints for programs: stateless, for `gradio_client` and plain HTTP."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from gra_core.alignment import Face
from gra_core.compositing import draw_result
from gra_core.directions.registry import edit_offset
from gra_core.errors import GRAError, StrengthError
from gra_core.export import FORMATS, check_size, describe, result_name, save_picture
from gra_core.images import Photo, read_photo
from gra_core.ui.admission import MODEL, Work
from gra_core.ui.app_state import AppState
from gra_core.ui.temp_store import TempStore
from gra_core.ui.widgets import explain, file_value

KEPT_SECONDS = 600.0
"""How long a result can be fetched."""


def add_endpoints(state: AppState) -> None:
    """Add `/edits`, `/align` and `/edit` to the page that is being built."""

    def edits() -> list[dict[str, Any]]:
        """The edits there are: key, label, hint, minimum, maximum, group and caveat of each."""
        names = ("key", "label", "hint", "minimum", "maximum", "group", "caveat")
        return [{name: getattr(edit, name) for name in names} for edit in state.edits.values()]

    @_told
    def align(image: FileData, face: int = 0) -> tuple[FileData, dict[str, Any]]:
        """Cut a face out as the editor sees it. Face 0 is the largest.

        Returns the crop (PNG, 1024 x 1024), and a dictionary with the number of `faces`, the `boxes` of all and the
        corners of the crop in the photo (`quad`: top left, bottom left, bottom right, top right), and sentences on what
        was done to the photo (`notes`), such as that it was turned: boxes and quad are those of the turned photo.
        """
        face = _whole_number(face)
        with state.queue.join(work=Work.OPEN) as place:
            place.arrive()
            photo, faces = _opened(state, image)
            aligned = state.aligner.align(photo.image, faces[_index(face, len(faces))])
        path = _store().write("aligned.png", aligned.image.save)
        about = {"faces": len(faces), "boxes": [list(f.box) for f in faces], "quad": aligned.quad.tolist()}
        about["notes"] = list(photo.notes)
        return file_value(str(path)), about

    @_told
    def edit(
        image: FileData,
        settings: dict[str, float],
        face: int = 0,
        whole_photo: bool = False,
        file_format: str = "png",
    ) -> FileData:
        """Edit one face of a photo. Nothing is kept between calls.

        Settings are strengths by key, such as {"smile": 60, "age": -30}; face 0 is the largest; the result is the
        whole photo, or the square around the face, both at the photo's own size (a face at 1024 x 1024 or more);
        file_format is png, jpg or webp. What was done to the photo comes as messages of the kind "info", such as that
        it was turned.
        """
        face, strengths = _whole_number(face), _strengths(state, settings)
        if f".{file_format}" not in FORMATS:
            raise GRAError(f"There is no format {_short(file_format)}; there are: png, jpg, webp.")
        suffix, about = f".{file_format}", describe(strengths, state.edits)
        with state.queue.join(work=Work.OPEN) as place:
            place.arrive()
            photo, faces = _opened(state, image, suffix if whole_photo else None)
            state.queue.give_way()
            aligned = state.aligner.align(photo.image, faces[_index(face, len(faces))])
            inversion = state.compute(state.editor.invert, aligned.image, state.queue.give_way)
            output = state.compute(state.editor.render, inversion, strengths)
            state.queue.give_way()
            draw = functools.partial(draw_result, whole_photo=whole_photo)
            result = state.compute(draw, photo, aligned, output, faces)
        name = result_name("portrait", strengths, suffix)
        path = _store().write(name, lambda part: save_picture(result, part, suffix, about))
        for note in photo.notes:
            gr.Info(note)
        return file_value(str(path))

    gr.api(edits, api_name="edits", concurrency_limit=None)
    gr.api(align, api_name="align", **MODEL)
    gr.api(edit, api_name="edit", **MODEL)


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint whose errors reach the program as a sentence.

    Gradio keeps an error until the next garbage collection, and with it what its frames hold, such as a photo of
    400 MB: so they let go of it first.
    """

    @functools.wraps(function)
    def endpoint(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            sentence = explain(error)
            traceback.clear_frames(error.__traceback__)
            raise gr.Error(sentence, print_exception=False) from error

    return endpoint


def _store() -> TempStore:
    store = TempStore()
    store.clear_later(KEPT_SECONDS)
    return store


def _opened(state: AppState, image: FileData, suffix: str | None = None) -> tuple[Photo, list[Face]]:
    """The photo of an upload, which can be used again until it is deleted, and its faces.

    Raises:
        GRAError: it cannot be used, or is too large for a file with `suffix`.
    """
    photo = read_photo(state.received.path(image))
    if suffix:
        check_size(photo.image.size, suffix)
    return state.aligner.find(photo)


def _strengths(state: AppState, settings: object) -> dict[str, float]:
    """The settings that a client sent."""
    if not isinstance(settings, dict):
        raise StrengthError('The settings are strengths by key, such as {"smile": 60, "age": -30}.')
    if len(settings) > len(state.edits):
        raise StrengthError(f"There are {len(settings)} settings, but only {len(state.edits)} edits.")
    edit_offset(state.edits, settings)
    return {key: float(value) for key, value in settings.items()}


def _whole_number(face: object) -> int:
    if not isinstance(face, int) or isinstance(face, bool):
        raise GRAError(f"The face is a whole number that counts from 0, the largest; not {_short(face)}.")
    return face


def _index(face: int, count: int) -> int:
    if not 0 <= face < count:
        found = "1 face was found" if count == 1 else f"{count} faces were found"
        raise GRAError(f"There is no face {face}: {found}, and face counts from 0, the largest.")
    return face


def _short(value: object) -> str:
    """A value that a client sent, for a message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
