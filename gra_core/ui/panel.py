"""The panel of sliders: groups, presets, undo, redo and reset. It is made from the registry of edits."""

from __future__ import annotations

import html
from collections.abc import Mapping

import gradio as gr

from gra_core import settings
from gra_core.constants import MAX_STRENGTH
from gra_core.directions.importers import SUFFIXES
from gra_core.directions.registry import EditDirection
from gra_core.export import describe
from gra_core.ui import custom_edits, presets, strings
from gra_core.ui.history import History
from gra_core.ui.widgets import finder, picker, picker_value

FIRST = ("smile", "age", "yaw", "glasses", "gender", "hair_light")
"""The most wanted edits: their sliders stand before the groups, in this order."""


class EditPanel:
    """The widgets of the panel.

    Args:
        edits: in slider order.
        in_words: whether visitors may describe an edit.
    """

    def __init__(self, edits: Mapping[str, EditDirection], *, in_words: bool = False) -> None:
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
            self.finder = finder(_findable(edits, {}), "find")
            self.sliders = _sliders(edits)
            with gr.Accordion("Your own edits", open=False, elem_classes="edit-group", elem_id="own"):
                self._draw_own(in_words)
        self.outputs = [self.undo, self.redo, self.summary, *self.sliders]

    def _draw_own(self, in_words: bool) -> None:
        gr.Markdown(strings.OWN)
        # Gradio cannot make sliders later: these wait, hidden, for edits of the visitor's own.
        self.slots: list[gr.Column] = []
        self.own_sliders: list[gr.Slider] = []
        self.removers: list[gr.Button] = []
        for index in range(custom_edits.MOST):
            with gr.Column(visible=False, elem_classes="own-slot", elem_id=f"own-slot-{index}") as slot:
                self.own_sliders.append(_slider("", "", -MAX_STRENGTH, f"own-{index}"))
                self.removers.append(gr.Button("Remove", size="sm", min_width=80, elem_classes="remove"))
            self.slots.append(slot)
        self.sliders += self.own_sliders
        self.file = gr.UploadButton("Add a file", file_types=list(SUFFIXES), size="sm", elem_id="own-file")
        with gr.Column(visible=in_words, elem_id="describe"):
            self.target = gr.Textbox(
                label="Or describe the edit", placeholder="a face with freckles", max_lines=1, elem_id="describe-target"
            )
            self.neutral = gr.Textbox(
                label="Compared with", value=strings.NEUTRAL, max_lines=1, elem_id="describe-neutral"
            )
            gr.Markdown(strings.DESCRIBE)
            self.describe = gr.Button("Make it a slider", size="sm", elem_id="describe-go")

    def read(self, values: tuple[object, ...], edits: Mapping[str, EditDirection]) -> dict[str, float]:
        """Settings from the values of the sliders; an emptied number box counts as 0.

        Args:
            values: of all sliders, those without an edit included.
            edits: the visitor's: the shared ones, then own ones.
        """
        return settings.clean(edits, dict(zip(edits, values, strict=False)))

    def reflect(self, history: History, edits: Mapping[str, EditDirection], *, sliders: bool = True) -> dict:
        """Changes on the panel that show a face's settings; sliders that a hand is on are left alone."""
        return {
            self.undo: gr.update(interactive=history.can_undo),
            self.redo: gr.update(interactive=history.can_redo),
            **self.show(history.current, edits, sliders=sliders),
        }

    def show(self, strengths: Mapping[str, float], edits: Mapping[str, EditDirection], *, sliders: bool = True) -> dict:
        """Changes on the panel that show settings, without undo and redo."""
        values = {slider: strengths.get(key, 0) for key, slider in zip(edits, self.sliders, strict=False)}
        return {self.summary: _summary(strengths, edits), **(values if sliders else {})}

    def show_own(
        self, strengths: Mapping[str, float], own: Mapping[str, EditDirection], *, sliders: bool = True
    ) -> dict:
        """Changes on the panel when edits of the visitor's own come or go.

        Sliders that a hand is on are left alone, but for those that have no edit any more: they go to 0.
        """
        changes: dict = {self.finder: _findable(self.edits, own)}
        edits = [*own.values(), *[None] * custom_edits.MOST][: custom_edits.MOST]
        for slot, slider, edit in zip(self.slots, self.own_sliders, edits, strict=True):
            changes[slot] = gr.update(visible=edit is not None)
            texts = {"label": edit.label, "info": f"{strings.hint(edit.hint)} {edit.caveat}"} if edit else {}
            value = {"value": strengths.get(edit.key, 0) if edit else 0} if sliders or not edit else {}
            changes[slider] = gr.update(**texts, **value)
        return changes


def notes(edits: Mapping[str, EditDirection]) -> str:
    """Markdown on what each slider does."""
    lines = [f"- **{edit.label}.** {strings.hint(edit.hint)} {edit.caveat}".rstrip() for edit in edits.values()]
    return "What each slider does, and what tends to change along with it:\n\n" + "\n".join(lines)


def _summary(strengths: Mapping[str, float], edits: Mapping[str, EditDirection]) -> str:
    text = describe(strengths, edits) if strengths else strings.UNCHANGED
    return f'<p aria-live="polite">{html.escape(text)}</p>'


def _folds(edits: Mapping[str, EditDirection]) -> dict[str, list[EditDirection]]:
    """The edits by the fold they stand in: the most wanted ones first, the others by group."""
    folds = {strings.FIRST: [edits[key] for key in FIRST if key in edits]}
    for edit in edits.values():
        if edit.key not in FIRST:
            folds.setdefault(edit.group, []).append(edit)
    return folds


def _sliders(edits: Mapping[str, EditDirection]) -> list[gr.Slider]:
    """One slider per edit, returned in the order of `edits`."""
    sliders = {}
    for index, (group, members) in enumerate(_folds(edits).items()):
        first = index == 0
        title = group if first else f"{group}: {', '.join(edit.label.lower() for edit in members)}"
        options = {"open": first, "visible": bool(members), "elem_classes": "edit-group", "elem_id": f"fold-{index}"}
        with gr.Accordion(title, **options):
            for edit in members:
                sliders[edit.key] = _slider(edit.label, edit.hint, edit.minimum, f"edit-{edit.key}")
    return [sliders[key] for key in edits]


def _findable(edits: Mapping[str, EditDirection], own: Mapping[str, EditDirection]) -> list[dict[str, str]]:
    """Entries of the finder, one for each slider."""
    places = [
        (edit, f"edit-{edit.key}", f"fold-{index}")
        for index, members in enumerate(_folds(edits).values())
        for edit in members
    ]
    places += [(edit, f"own-slot-{index}", "own") for index, edit in enumerate(own.values())]
    found = []
    for edit, place, fold in places:
        text = f"{edit.label} {edit.group} {edit.hint} {strings.ALSO_CALLED.get(edit.key, '')}".lower()
        found.append({"place": place, "fold": fold, "text": text})
    return found


def _slider(label: str, hint: str, minimum: float, elem_id: str) -> gr.Slider:
    return gr.Slider(
        minimum,
        MAX_STRENGTH,
        value=0,
        step=1,
        label=label,
        info=strings.hint(hint),
        elem_id=elem_id,
        elem_classes=["edit-slider", "two-sided" if minimum < 0 else "one-sided"],
        buttons=["reset"],
    )
