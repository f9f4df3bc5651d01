"""Settings to start from, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from gra_core.directions.registry import EditDirection

PRESETS: dict[str, dict[str, float]] = {
    "Big smile": {"smile": 100},
    "Serious": {"smile": -95},
    "Younger, smiling": {"age": -70, "smile": 60},
    "Older": {"age": 100},
    "Surprised": {"brow_height": 100, "eyes_open": 80, "mouth_open": 90},
    "Look aside": {"yaw": 60},
    "Reading glasses": {"glasses": 100, "age": 20},
}


def available(edits: Mapping[str, EditDirection]) -> dict[str, dict[str, float]]:
    """The presets whose edits there are."""
    return {name: strengths for name, strengths in PRESETS.items() if strengths.keys() <= edits.keys()}
