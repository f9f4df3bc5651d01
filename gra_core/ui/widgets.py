"""Widgets that the tabs share, four of which Gradio does not have: the before/after viewer, a player of animations, a
row of pictures or words to choose from, and a box that finds sliders.

These are plain HTML with a few lines of script beside this file, usable by keyboard and screen reader.
"""

from __future__ import annotations

import base64
import errno
import html
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import gradio as gr
from PIL import Image

from gra_core.directions.registry import EditDirection
from gra_core.errors import GRAError
from gra_core.ui import strings

HERE = Path(__file__).parent
THUMBNAIL_SIDE = 96

LONGEST_NAME = 255
"""Characters of a file name that count: no file system has longer ones."""

log = logging.getLogger(__name__)


def viewer(elem_id: str) -> gr.HTML:
    """Two pictures of one size with a line to drag between them; set it with `pictures_value`."""
    return gr.HTML(
        html_template=(HERE / "viewer.html").read_text(encoding="utf-8"),
        js_on_load=(HERE / "viewer.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        visible=False,
        elem_id=elem_id,
    )


def player(elem_id: str) -> gr.HTML:
    """An animated picture or a video; set it with `file_value`."""
    return gr.HTML(
        html_template='<div class="player"></div>',
        js_on_load=(HERE / "player.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        visible=False,
        elem_id=elem_id,
    )


def pictures_value(before: str, after: str) -> dict[str, dict[str, object]]:
    """Value of a `viewer` from the paths of two files."""
    return {"before": file_value(before), "after": file_value(after)}


def file_value(path: str) -> dict[str, object]:
    """A file as Gradio hands it to the browser."""
    return {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}


def finder(value: list[dict[str, str]], elem_id: str) -> gr.HTML:
    """A box to type in that leaves only those sliders in sight of which the words typed tell.

    Args:
        value: of each slider the element that holds it (`place`), the fold which that is in, and a `text` in small
            letters in which the words are looked for.
        elem_id: of the box.
    """
    return gr.HTML(
        value,
        html_template=(
            '<div class="finder"><input type="search" placeholder="Find an edit" aria-label="Find an edit" '
            'enterkeyhint="search" autocomplete="off" spellcheck="false"><span class="said" role="status"></span></div>'
        ),
        js_on_load=(HERE / "finder.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def picker(label: str, elem_id: str, value: object = None, visible: bool = True) -> gr.HTML:
    """A row of buttons with an event `select`; set it with `picker_value`."""
    return gr.HTML(
        value,
        html_template='<div class="picker" role="group" aria-label="${label}"></div>',
        js_on_load=(HERE / "picker.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        label=label,
        visible=visible,
        elem_id=elem_id,
    )


def picker_value(
    labels: Sequence[str], pictures: Sequence[Image.Image] = (), chosen: int | None = None
) -> dict[str, object]:
    """Value of a `picker`: a button for each label, with a picture if there are any, one of them marked."""
    sources = [data_url(picture, THUMBNAIL_SIDE) for picture in pictures] or [None] * len(labels)
    items = [{"label": label, "picture": source} for label, source in zip(labels, sources, strict=True)]
    return {"items": items, "chosen": chosen}


def note(kind: str, message: str) -> str:
    """HTML of a line that says what is going on; `kind` is "ready", "busy" or "error"."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="note {kind}" role="{role}">{html.escape(message)}</div>'


def name_of(file: dict, otherwise: str) -> str:
    """The visitor's name for a file that came in."""
    name = file.get("orig_name")
    return name[:LONGEST_NAME] if isinstance(name, str) and name.strip() else otherwise


def explain(error: Exception) -> str:
    """The line that the visitor reads; what is not the visitor's doing goes to the log."""
    if isinstance(error, GRAError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return strings.NO_ROOM
    log.error("An event of the page failed", exc_info=error)
    return strings.UNEXPECTED


def data_url(picture: Image.Image, side: int) -> str:
    """A picture, at most `side` pixels, as an address that holds it: no file stays on disk."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def choices_of(edits: Mapping[str, EditDirection]) -> list[tuple[str, str]]:
    """Choices of a drop-down of edits: label and key of each."""
    return [(edit.label, key) for key, edit in edits.items()]


def choice(label: str, choices: list[str], elem_id: str, **options: int) -> gr.Radio:
    """A row of buttons, the first one chosen; the label is for screen readers."""
    return gr.Radio(
        choices, value=choices[0], label=label, show_label=False, container=False, elem_id=elem_id, **options
    )
