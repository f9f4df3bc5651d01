"""The panel of sliders: groups, presets, undo, redo and reset. It is made from the registry of edits."""

from __future__ import annotations

import html
from collections.abc import Mapping

import gradio as gr

from gra_core import settings
from gra_core.directions.registry import EditDirection
from gra_core.export import describe
from gra_core.ui import presets, words
from gra_core.ui.history import History
from gra_core.ui.widgets import picker, picker_value

OPEN_SLIDERS = 8
"""Groups are open from the first on as long as together they have no more sliders than this."""


class EditPanel:
    """The widgets of the panel.

    Args:
        edits: in slider order.
    """

    def __init__(self, edits: Mapping[str, EditDirection]) -> None:
        self.edits = edits
        self.presets = list(presets.available(edits).items())
        with gr.Column(elem_id="controls"):
            with gr.Row(elem_id="controls-head"):
                gr.Markdown("## Edits")
                self.undo = gr.Button("Undo", size="sm", min_width=60, interactive=False, elem_id="undo")
                self.redo = gr.Button("Redo", size="sm", min_width=60, interactive=False, elem_id="redo")
                self.reset = gr.Button("Reset all", size="sm", min_width=80, elem_id="reset")
            self.summary = gr.HTML(_summary({}, edits), elem_id="summary")
            names = [name for name, _ in self.presets]
            self.preset = picker("Presets", "presets", picker_value(names), visible=bool(names))
            self.sliders = _sliders(edits)
        self.outputs = [self.undo, self.redo, self.summary, *self.sliders]

    def read(self, values: tuple[object, ...]) -> dict[str, float]:
        """Settings from the values of the sliders; an emptied number box counts as 0."""
        return settings.clean(self.edits, dict(zip(self.edits, values, strict=True)))

    def reflect(self, history: History, *, sliders: bool = True) -> dict:
        """What changes on the panel to show a face's settings; the sliders that a hand is on are left alone."""
        return {
            self.undo: gr.update(interactive=history.can_undo),
            self.redo: gr.update(interactive=history.can_redo),
            **self.show(history.current, sliders=sliders),
        }

    def show(self, strengths: Mapping[str, float], *, sliders: bool = True) -> dict:
        """What changes on the panel to show settings, without undo and redo."""
        values = {s: strengths.get(key, 0) for key, s in zip(self.edits, self.sliders, strict=True)}
        return {self.summary: _summary(strengths, self.edits), **(values if sliders else {})}


def notes(edits: Mapping[str, EditDirection]) -> str:
    """Markdown on what each slider does."""
    lines = [f"- **{edit.label}.** {edit.hint} {edit.caveat}".rstrip() for edit in edits.values()]
    return "What each slider does, and what tends to change along with it:\n\n" + "\n".join(lines)


def _summary(strengths: Mapping[str, float], edits: Mapping[str, EditDirection]) -> str:
    text = describe(strengths, edits) if strengths else words.UNCHANGED
    return f'<p aria-live="polite">{html.escape(text)}</p>'


def _sliders(edits: Mapping[str, EditDirection]) -> list[gr.Slider]:
    """One slider per edit in the fold of its group, returned in the order of `edits`."""
    groups: dict[str, list[EditDirection]] = {}
    for edit in edits.values():
        groups.setdefault(edit.group, []).append(edit)
    sliders = {}
    room = OPEN_SLIDERS
    for group, members in groups.items():
        room -= len(members)
        with gr.Accordion(group, open=room >= 0, elem_classes="edit-group"):
            for edit in members:
                sliders[edit.key] = gr.Slider(
                    edit.minimum,
                    edit.maximum,
                    value=0,
                    step=1,
                    label=edit.label,
                    info=edit.hint,
                    elem_id=f"edit-{edit.key}",
                    elem_classes=["edit-slider", "two-sided" if edit.minimum < 0 else "one-sided"],
                    buttons=["reset"],
                )
    return [sliders[key] for key in edits]
