"""The page as a whole: its tabs, its texts and how it is launched."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.state_holder import SessionState

from gra_core.memory import keep_freed_memory
from gra_core.ui import private_logging, strings
from gra_core.ui.api import add_endpoints
from gra_core.ui.app_state import AppState
from gra_core.ui.batch_tab import BatchTab
from gra_core.ui.compare_tab import CompareTab
from gra_core.ui.edit_tab import EditTab
from gra_core.ui.gate import GuardedApp
from gra_core.ui.panel import notes
from gra_core.ui.session_store import LIFETIME
from gra_core.ui.theme import FAVICON, STYLESHEET, PortraitTheme
from gra_core.ui.widgets import HERE

MAX_THREADS = 200
"""Everybody who waits in the line takes one."""

MOST_PAGES = 20_000
"""Pages that Gradio keeps answers for. It drops the oldest beyond that, even one that waits in the queue."""


class Page(gr.Blocks):
    """The page, with the parts that all its visitors share."""

    state: AppState

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: Any, state: SessionState | None
    ) -> list[Any]:
        """As Gradio's, but components that an answer leaves out stay as they are.

        Gradio makes each of them anew, with a JSON schema. For each message to a visitor who waits that takes 20 ms, in
        which no net makes progress.
        """
        if not (isinstance(predictions, dict) and predictions and predictions.keys() <= set(block_fn.outputs)):
            return await super().postprocess_data(block_fn, predictions, state)
        changed = [part for part in block_fn.outputs if predictions.get(part, gr.skip()) != gr.skip()]
        answers = {}
        if changed:
            only_these, values = copy.copy(block_fn), [predictions[part] for part in changed]
            only_these.outputs = changed
            values = values if len(values) > 1 else values[0]
            answers = dict(zip(changed, await super().postprocess_data(only_these, values, state), strict=True))
        return [answers.get(part, gr.skip()) for part in block_fn.outputs]


def launch_options(page: Page) -> dict[str, object]:
    """Arguments for `page.launch()`: looks, the gate, and nothing that would tell a third party of a visit."""
    private_logging.install()
    page.state.keep_house()
    return {
        "_app": GuardedApp(page, page.state),
        "theme": PortraitTheme(),
        "css_paths": STYLESHEET,
        "favicon_path": FAVICON,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "_frontend": False,  # else Gradio asks its own page while it starts, and ends when visitors leave it no answer
        "max_file_size": "500mb",
        "max_threads": MAX_THREADS,
    }


def build_page(state: AppState | None = None) -> Page:
    """The page, ready to launch with `launch_options`; the model loads in the background.

    Args:
        state: the editor and what belongs to it; the real one by default.

    Raises:
        CheckpointError: the registry of edits is missing or damaged.
    """
    keep_freed_memory()  # before the threads that answer visitors are started
    state = state or AppState()
    with Page(title=strings.TITLE, analytics_enabled=False, delete_cache=(600, int(LIFETIME))) as blocks:
        blocks.state = state
        with gr.Row(elem_id="head"):
            gr.Markdown(f"# {strings.TITLE}\n{strings.INTRODUCTION}", elem_id="title")
            gr.HTML(
                html_template='<button type="button" aria-label="Light or dark" title="Light or dark">◐</button>',
                js_on_load=(HERE / "theme.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="theme",
            )
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Edit", id="edit"):
                edit = EditTab(state)
            with gr.Tab("Batch", id="batch") as batch_tab:
                batch = BatchTab(state, edit.panel)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = CompareTab(state, edit.panel)
        with gr.Column(elem_id="about"):
            with gr.Accordion("What happens to my photo", open=False):
                gr.Markdown(strings.PRIVACY)
            with gr.Accordion("About the edits", open=False):
                gr.Markdown(notes(state.edits))
            with gr.Accordion("Licence", open=False):
                gr.Markdown(strings.LICENCE)
        edit.connect(blocks)
        batch.connect(batch_tab)
        compare.connect(compare_tab)
        add_endpoints(state)
    blocks._queue.pending_messages_per_session.max_size = MOST_PAGES
    state.warm_up()
    return blocks
