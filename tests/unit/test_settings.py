"""Settings as people keep them: what is written is read again, and nothing that is read can do harm."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from gra_core import settings
from gra_core.directions.registry import load_directions
from gra_core.errors import SettingsError

EDITS = load_directions()
KEYS = st.sampled_from(sorted(EDITS))
STRENGTHS = st.floats(-100, 100, allow_nan=False)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(KEYS | st.text(), STRENGTHS | ANYTHING))
def test_clean_settings_are_in_order_and_range_and_stay_as_they_are(values):
    cleaned = settings.clean(EDITS, values)
    assert list(cleaned) == [key for key in EDITS if key in cleaned]
    for key, value in cleaned.items():
        assert value != 0
        assert EDITS[key].minimum <= value <= EDITS[key].maximum
    assert settings.clean(EDITS, cleaned) == cleaned


@given(st.dictionaries(KEYS, STRENGTHS), st.lists(st.text(min_size=1), max_size=3))
def test_a_file_gives_back_what_was_saved_and_names_the_rest(values, strangers):
    cleaned, others = settings.clean(EDITS, values), [name for name in strangers if name not in EDITS]
    text = settings.to_json(cleaned | dict.fromkeys(others, 1.0))
    assert settings.from_json(text, EDITS) == (cleaned, list(dict.fromkeys(others)))


@given(st.dictionaries(KEYS, STRENGTHS))
def test_a_link_gives_back_the_settings_to_six_digits(values):
    cleaned = settings.clean(EDITS, values)
    found = settings.from_query(settings.to_query(cleaned), EDITS)
    assert found.keys() == cleaned.keys()
    assert all(math.isclose(found[key], value, rel_tol=1e-5) for key, value in cleaned.items())


@given(st.text() | st.binary() | ANYTHING.map(json.dumps))
def test_any_other_file_is_refused(content):
    try:
        found, _ = settings.from_json(content, EDITS)
    except SettingsError:
        return
    assert found == settings.clean(EDITS, found)


@given(st.text())
def test_any_link_can_be_read(query):
    assert settings.from_query(query, EDITS).keys() <= EDITS.keys()
