"""Undo and redo against a list of states and a place in it."""

from hypothesis import given
from hypothesis import strategies as st

from gra_core.ui.history import GESTURE_SECONDS, LONGEST, History

SETTINGS = st.dictionaries(st.sampled_from(["smile", "age", "yaw"]), st.sampled_from([-50.0, 20.0, 60.0]))
STEPS = st.lists(st.tuples(st.sampled_from(["record", "set", "undo", "redo"]), SETTINGS), max_size=40)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 2 * GESTURE_SECONDS
        return self.now


@given(STEPS)
def test_history_is_a_list_of_states_and_a_place_in_it(steps):
    history, states, place = History(Clock()), [{}], 0
    for step, strengths in steps:
        revision = history.revision
        if step in ("undo", "redo"):
            getattr(history, step)()
            place = max(place - 1, 0) if step == "undo" else min(place + 1, len(states) - 1)
        else:
            getattr(history, step)(strengths)
            if strengths != states[place]:
                states, place = [*states[: place + 1], strengths], place + 1
        assert history.current == states[place]
        assert (history.can_undo, history.can_redo) == (place > 0, place + 1 < len(states))
        assert (history.revision == revision) == (step == "record")


@given(STEPS, st.sampled_from(["smile", "age", "yaw"]))
def test_a_forgotten_edit_is_in_no_state(steps, key):
    history = History(Clock())
    for step, strengths in steps:
        getattr(history, step)(*[strengths] * (step in ("record", "set")))
    wanted = {name: value for name, value in history.current.items() if name != key}
    history.forget(key)
    assert history.current == wanted
    for move in ("undo", "redo"):
        for _ in range(LONGEST):
            before = history.current
            getattr(history, move)()
            assert key not in history.current
            assert history.current != before or not getattr(history, f"can_{move}")
