"""Named endpoints for programs: stateless, for `gradio_client` and plain HTTP."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from gra_core.alignment import AlignedFace
from gra_core.compositing import View, compose
from gra_core.directions.registry import edit_offset
from gra_core.errors import GRAError
from gra_core.export import FORMATS, describe, result_name, save_picture
from gra_core.images import load_image
from gra_core.ui.line import MODEL, Work
from gra_core.ui.shelf import Shelf
from gra_core.ui.studio import Studio
from gra_core.ui.widgets import explain, file_value

KEPT_SECONDS = 600.0
"""How long a result can be fetched."""


def add_endpoints(studio: Studio) -> None:
    """Add `/edits`, `/align` and `/edit` to the page that is being built."""

    def edits() -> list[dict[str, Any]]:
        """The edits there are: key, label, hint, minimum, maximum, group and caveat of each."""
        names = ("key", "label", "hint", "minimum", "maximum", "group", "caveat")
        return [{name: getattr(edit, name) for name in names} for edit in studio.edits.values()]

    def align(image: FileData, face: int = 0) -> tuple[FileData, dict[str, Any]]:
        """Cut a face out as the editor sees it. Face 0 is the largest.

        Returns the crop (PNG, 1024 x 1024), and a dictionary with the number of `faces`, the `box` of each and the
        corners of the crop in the photo (`quad`: top left, bottom left, bottom right, top right).
        """
        try:
            with studio.line.join(work=Work.OPEN) as place:
                place.arrive()
                photo = _photo(studio, image)
                faces = studio.aligner.detect(photo)
                aligned = studio.aligner.align(photo, faces[_index(face, len(faces))])
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from error
        path = _shelf().write("aligned.png", aligned.image.save)
        about = {"faces": len(faces), "boxes": [list(f.box) for f in faces], "quad": aligned.quad.tolist()}
        return file_value(str(path)), about

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
        file_format is png, jpg or webp.
        """
        try:
            edit_offset(studio.edits, settings)
            if f".{file_format}" not in FORMATS:
                raise GRAError(f"There is no format {file_format!r}; there are: png, jpg, webp.")
            strengths = {key: float(value) for key, value in settings.items()}
            with studio.line.join(work=Work.OPEN) as place:
                place.arrive()
                photo = _photo(studio, image)
                studio.line.give_way()
                faces = studio.aligner.detect(photo)
                studio.line.give_way()
                aligned: AlignedFace = studio.aligner.align(photo, faces[_index(face, len(faces))])
                inversion = studio.editor.invert(aligned.image, studio.line.give_way)
                output = studio.editor.render(inversion, strengths)
            view = View.whole(photo) if whole_photo else View.close_up(photo, aligned)
            result = compose(view, [(aligned, output)], faces)
            suffix, about = f".{file_format}", describe(strengths, studio.edits)
            name = result_name("portrait", strengths, suffix)
            path = _shelf().write(name, lambda part: save_picture(result, part, suffix, about))
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from error
        return file_value(str(path))

    gr.api(edits, api_name="edits", concurrency_limit=None)
    gr.api(align, api_name="align", **MODEL)
    gr.api(edit, api_name="edit", **MODEL)


def _shelf() -> Shelf:
    shelf = Shelf()
    shelf.clear_later(KEPT_SECONDS)
    return shelf


def _photo(studio: Studio, image: FileData) -> Image.Image:
    """The photo of an upload, which can be used again until it is deleted."""
    return load_image(studio.received.path(image))


def _index(face: int, count: int) -> int:
    if not 0 <= face < count:
        found = "1 face was found" if count == 1 else f"{count} faces were found"
        raise GRAError(f"There is no face {face}: {found}, and face counts from 0, the largest.")
    return face
