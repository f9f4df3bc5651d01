"""Colours and fonts of the page. Fonts are the visitor's own: nothing is fetched from anywhere."""

from pathlib import Path

import gradio as gr
from gradio.themes.utils import sizes

STYLESHEET = Path(__file__).with_name("page.css")
FAVICON = Path(__file__).with_name("favicon.svg")

SAGE = gr.themes.Color(
    name="sage",
    c50="#f1f7f5",
    c100="#dcebe6",
    c200="#bbd8cf",
    c300="#8fbdb0",
    c400="#629d8f",
    c500="#448274",
    c600="#34685d",
    c700="#2c544c",
    c800="#26443e",
    c900="#213935",
    c950="#0f1f1d",
)
SAND = gr.themes.Color(
    name="sand",
    c50="#faf9f7",
    c100="#f2f0ec",
    c200="#e5e1da",
    c300="#d0cac0",
    c400="#a39c91",
    c500="#7a736a",
    c600="#5d5750",
    c700="#46413c",
    c800="#2a2724",
    c900="#1e1c1a",
    c950="#151412",
)
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


class PortraitTheme(gr.themes.Base):
    """Warm paper and muted green by day, the same at low light by night."""

    def __init__(self) -> None:
        super().__init__(
            primary_hue=SAGE,
            secondary_hue=SAGE,
            neutral_hue=SAND,
            radius_size=sizes.radius_lg,
            font=SANS,
            font_mono=MONO,
        )
        self.name = "portrait"
        self.set(
            body_background_fill="*neutral_50",
            body_background_fill_dark="*neutral_950",
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_300",
            background_fill_primary="white",
            background_fill_primary_dark="*neutral_900",
            background_fill_secondary="*neutral_100",
            background_fill_secondary_dark="*neutral_950",
            block_background_fill="white",
            block_background_fill_dark="*neutral_900",
            block_border_width="1px",
            block_border_color="*neutral_200",
            block_border_color_dark="*neutral_800",
            block_shadow="none",
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            block_title_text_weight="600",
            block_title_text_color="*neutral_800",
            block_title_text_color_dark="*neutral_100",
            color_accent="*primary_600",
            border_color_primary="*neutral_200",
            border_color_primary_dark="*neutral_800",
            input_background_fill="*neutral_100",
            input_background_fill_dark="*neutral_800",
            input_border_width="0px",
            slider_color="*primary_500",
            slider_color_dark="*primary_400",
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
            button_primary_background_fill_dark="*primary_600",
            button_primary_background_fill_hover_dark="*primary_700",
            button_primary_text_color="white",
            button_secondary_background_fill="white",
            button_secondary_background_fill_hover="*neutral_100",
            button_secondary_background_fill_dark="*neutral_800",
            button_secondary_background_fill_hover_dark="*neutral_700",
            button_secondary_border_color="*neutral_300",
            button_secondary_border_color_dark="*neutral_700",
            button_border_width="1px",
            checkbox_label_background_fill_selected="*primary_100",
            checkbox_label_background_fill_selected_dark="*primary_800",
            checkbox_label_text_color_selected="*primary_800",
            checkbox_label_text_color_selected_dark="*primary_100",
        )
