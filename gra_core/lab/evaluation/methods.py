"""The methods that are compared: how each inverts a portrait and renders an edit of it.

Those with streams are the same nets in other designs (`gra_core.models.streams.DESIGNS`), trained on the same data by a
stage of a recipe that names the `design`. Their weights are not shipped; `trained_methods` reads them from a folder.
`gra_core.lab.evaluation.optimization` has the methods that optimise for each picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gra_core.checkpoints import CheckpointSource
from gra_core.editor import PortraitEditor
from gra_core.errors import CheckpointError
from gra_core.models.streams import DESIGNS

LOW_RATE = "low_rate"
GRA = "gra"
EQUAL_BUDGET = "_equal_budget"
"""Behind the name of streams in a folder whose design is shipped too: trained as long as the other designs there."""


@dataclass(frozen=True)
class Method:
    """One way to edit a portrait.

    Attributes:
        invert: aligned portrait, 1024 px -> what `edit` needs of it. Methods with the same one share its result.
        edit: that and slider values -> picture, 1024 px; no values mean the reconstruction.
    """

    invert: Callable[[Image.Image], Any]
    edit: Callable[[Any, Mapping[str, float]], Image.Image]


def standard_methods(editor: PortraitEditor) -> dict[str, Method]:
    """The editor, and the code it finds rendered without any residual ("low_rate", as e4e does)."""
    return {LOW_RATE: Method(editor.invert, editor.low_rate), GRA: Method(editor.invert, editor.edit)}


def trained_methods(editor: PortraitEditor, folder: Path) -> dict[str, Method]:
    """A method for each weights file in `folder` that is named after a design, with the editor's other nets.

    Designs are compared as the Editing Stream draws them: without background fill and photo warp.

    Raises:
        CheckpointError: there is none, or one does not fit.
    """
    files = CheckpointSource(folder)
    methods = {}
    for name in DESIGNS:
        if (folder / f"{name}.safetensors").is_file():
            streams = files.load_streams(f"{name}.safetensors").to(editor.device)
            nets = editor.generator, editor.encoder, streams
            other = PortraitEditor(*nets, None, editor.edits, editor.glasses)
            methods[name + EQUAL_BUDGET if name == GRA else name] = Method(other.invert, other.edit)
    if not methods:
        raise CheckpointError(f"{folder} holds none of {', '.join(f'{name}.safetensors' for name in DESIGNS)}.")
    return methods
