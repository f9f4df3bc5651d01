"""Settings to start from, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from gra_core.directions.registry import EditDirection

PRESETS: dict[str, dict[str, float]] = {
    "Big smile": {"smile": 75},
    "Serious": {"smile": -70},
    "Younger, smiling": {"age": -45, "smile": 45},
    "In thirty years": {"age": 70},
    "Look aside": {"yaw": 60},
    "Reading glasses": {"glasses": 80, "age": 15},
}


def available(edits: Mapping[str, EditDirection]) -> dict[str, dict[str, float]]:
    """The presets whose edits there are."""
    return {name: strengths for name, strengths in PRESETS.items() if strengths.keys() <= edits.keys()}
