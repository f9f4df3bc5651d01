"""The page as a whole: its tabs, its texts and how it is launched."""

from __future__ import annotations

import gradio as gr

from gra_core.memory import keep_freed_memory
from gra_core.ui import discreet, words
from gra_core.ui.api import add_endpoints
from gra_core.ui.batch_tab import BatchTab
from gra_core.ui.compare_tab import CompareTab
from gra_core.ui.edit_tab import EditTab
from gra_core.ui.gate import GuardedApp
from gra_core.ui.panel import notes
from gra_core.ui.studio import Studio
from gra_core.ui.theme import FAVICON, STYLESHEET, PortraitTheme
from gra_core.ui.visitors import LIFETIME
from gra_core.ui.widgets import HERE

MAX_THREADS = 200
"""Everybody who waits in the line takes one."""


class Page(gr.Blocks):
    """The page, with the parts that all its visitors share."""

    studio: Studio


def launch_options(page: Page) -> dict[str, object]:
    """Arguments for `page.launch()`: looks, the gate, and nothing that would tell a third party of a visit."""
    discreet.install()
    page.studio.keep_house()
    return {
        "_app": GuardedApp(page, page.studio),
        "theme": PortraitTheme(),
        "css_paths": STYLESHEET,
        "favicon_path": FAVICON,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": "500mb",
        "max_threads": MAX_THREADS,
    }


def build_page(studio: Studio | None = None) -> Page:
    """The page, ready to launch with `launch_options`; the model loads in the background.

    Args:
        studio: the editor and what belongs to it; the real one by default.

    Raises:
        CheckpointError: the registry of edits is missing or damaged.
    """
    keep_freed_memory()  # before the threads that answer visitors are started
    studio = studio or Studio()
    with Page(title=words.TITLE, analytics_enabled=False, delete_cache=(600, int(LIFETIME))) as blocks:
        blocks.studio = studio
        with gr.Row(elem_id="head"):
            gr.Markdown(f"# {words.TITLE}\n{words.INTRODUCTION}", elem_id="title")
            gr.HTML(
                html_template='<button type="button" aria-label="Light or dark" title="Light or dark">◐</button>',
                js_on_load=(HERE / "theme.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="theme",
            )
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Edit", id="edit"):
                edit = EditTab(studio)
            with gr.Tab("Batch", id="batch") as batch_tab:
                batch = BatchTab(studio, edit.panel)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = CompareTab(studio, edit.panel)
        with gr.Column(elem_id="about"):
            with gr.Accordion("What happens to my photo", open=False):
                gr.Markdown(words.PRIVACY)
            with gr.Accordion("About the edits", open=False):
                gr.Markdown(notes(studio.edits))
            with gr.Accordion("Licence", open=False):
                gr.Markdown(words.LICENCE)
        edit.connect(blocks)
        batch.connect(batch_tab)
        compare.connect(compare_tab)
        add_endpoints(studio)
    studio.warm_up()
    return blocks
