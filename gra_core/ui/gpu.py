"""A graphics card on loan: Hugging Face ZeroGPU lends one for the length of a call.

There, CUDA exists only inside functions marked with `spaces.GPU`, which run in a process of their own: what goes in and
out is copied between processes and must not lie on the card. Elsewhere the package `spaces` is absent or does nothing,
and the editor is used as it is.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from gra_core.compositing import EditOutput
    from gra_core.directions.registry import EditDirection
    from gra_core.editor import Inversion, PortraitEditor

SECONDS = 10
"""The longest loan asked for, in seconds: short ones are granted sooner."""


def on_loan() -> bool:
    """Whether the page runs on a Space that lends its card by the call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"} and bool(
        importlib.util.find_spec("spaces")
    )


def move(value: Any, device: str) -> Any:
    """A copy of an inversion (or any nest of dataclasses and tuples) with its tensors on `device`."""
    if is_dataclass(value):
        return replace(value, **{field.name: move(getattr(value, field.name), device) for field in fields(value)})
    if isinstance(value, tuple):
        return tuple(move(item, device) for item in value)
    return value.to(device) if hasattr(value, "to") else value


def size_in_bytes(value: Any) -> int:
    """Memory that the tensors and pictures in an inversion, or the numbers of an edit, take."""
    if is_dataclass(value):
        return sum(size_in_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple):
        return sum(map(size_in_bytes, value))
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if hasattr(owner := getattr(value, "__self__", None), "parameters"):  # a method of a network
        return sum(parameter.nbytes for parameter in owner.parameters())
    return getattr(value, "nbytes", 0)


class LoanedEditor:
    """In a `PortraitEditor`'s place where the card is lent: each call borrows it, results lie in main memory."""

    def __init__(self, editor: PortraitEditor, device: str = "cuda") -> None:
        """Wrap an editor that was loaded on the CPU."""
        import spaces  # noqa: PLC0415 - on Spaces only

        self.edits, self.average_code = editor.edits, editor.average_code
        self.generator = editor.generator  # in main memory

        def borrowed() -> PortraitEditor:
            *nets, glasses = (part if part is None else part.to(device) for part in (*editor.nets, editor.glasses))
            return type(editor)(*nets, editor.edits, glasses)

        @spaces.GPU(duration=SECONDS)
        def lent_invert(aligned: Image.Image) -> Inversion:
            return move(borrowed().invert(aligned), "cpu")

        def invert(aligned: Image.Image, pause: Callable[[], None] = lambda: None) -> Inversion:
            return lent_invert(aligned)  # in one go: the card is lent by the call

        @spaces.GPU(duration=SECONDS)
        def lent_render(
            inversion: Inversion, strengths: Mapping[str, float], edits: Mapping[str, EditDirection] | None
        ) -> EditOutput:
            return borrowed().render(move(inversion, device), strengths, edits)

        def render(
            inversion: Inversion,
            strengths: Mapping[str, float],
            edits: Mapping[str, EditDirection] | None = None,
        ) -> EditOutput:
            if edits is not None:
                edits = {key: edits[key] for key in strengths if key in edits}  # only what has to be copied
            return lent_render(inversion, strengths, edits)

        @spaces.GPU(duration=SECONDS)
        def run(function: Callable[..., Any], *arguments: Any) -> Any:
            return move(function(borrowed(), *arguments), "cpu")

        self.invert, self.render, self.run = invert, render, run

    def edit(self, *arguments: Any) -> Image.Image:
        """The picture of `render`, as of `PortraitEditor`."""
        return self.render(*arguments).image
