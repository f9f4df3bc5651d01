"""Slider settings as people keep them: a small JSON file, or the query of a link.

Reading is forgiving, since files and links outlive the list of edits: what is unknown is named and left out, values
are brought into the range of their slider.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from gra_core.directions.registry import EditDirection
from gra_core.errors import SettingsError

FORMAT = "gra-settings-1"


def clean(edits: Mapping[str, EditDirection], values: Mapping[str, object]) -> dict[str, float]:
    """Settings in slider order and range; what is no number counts as 0, zeros and unknown names are left out."""
    strengths = {}
    for key, edit in edits.items():
        number = min(max(_number(values.get(key)), edit.minimum), edit.maximum)
        if number:
            strengths[key] = number
    return strengths


def to_json(strengths: Mapping[str, float]) -> str:
    """The content of a settings file."""
    return json.dumps({"format": FORMAT, "edits": dict(strengths)}, indent=2) + "\n"


def from_json(text: str | bytes, edits: Mapping[str, EditDirection]) -> tuple[dict[str, float], list[str]]:
    """Read a settings file.

    Returns:
        the settings, and names in the file that no edit has.

    Raises:
        SettingsError: it is not a settings file.
    """
    try:
        content = json.loads(text)
        values = content["edits"]
        if content["format"] != FORMAT or not isinstance(values, dict):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SettingsError("This is not a settings file of this editor. Choose a .json file saved here.") from error
    return clean(edits, values), [name for name in values if name not in edits]


def to_query(strengths: Mapping[str, float]) -> str:
    """The query of a link, such as "smile=60&age=-30"."""
    return urlencode({key: f"{value:g}" for key, value in strengths.items() if value})


def from_query(query: str, edits: Mapping[str, EditDirection]) -> dict[str, float]:
    """Settings of a link; other parameters of the query are left alone."""
    return clean(edits, dict(parse_qsl(query, max_num_fields=200)))


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0
