"""Sessions in bounded memory, the line for the model, and undo."""

import threading
import time
import types

import pytest

from gra_core.ui.history import GESTURE_SECONDS, LONGEST, History
from gra_core.ui.line import Line
from gra_core.ui.visitors import Visitors


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Shelf:
    def __init__(self):
        self.cleared = False

    def clear(self, _after=0.0):
        self.cleared = True


def session(nbytes: int = 10) -> types.SimpleNamespace:
    return types.SimpleNamespace(nbytes=nbytes, shelf=Shelf())


@pytest.fixture
def clock():
    return Clock()


def test_a_session_is_found_by_its_visitor_only(clock):
    visitors = Visitors(clock=clock)
    mine = session()
    visitors.put("me", mine)
    assert visitors.get("me") is mine
    assert visitors.get("you") is None
    assert visitors.get(None) is None


def test_sessions_end_when_they_were_not_used_for_long(clock):
    visitors = Visitors(lifetime=100, clock=clock)
    idle, used = session(), session()
    visitors.put("idle", idle)
    visitors.put("used", used)
    clock.now += 60
    assert visitors.get("used") is used
    clock.now += 60
    assert visitors.get("idle") is None
    assert idle.shelf.cleared
    assert visitors.get("used") is used


def test_old_sessions_make_room_for_new_ones(clock):
    visitors = Visitors(capacity=100, clock=clock)
    sessions = {name: session(40) for name in "abc"}
    for name, kept in sessions.items():
        visitors.put(name, kept)
        clock.now += 1
    assert [visitors.get(name) is not None for name in "abc"] == [False, True, True]
    assert sessions["a"].shelf.cleared
    sessions["b"].nbytes = 70  # another face was inverted
    visitors.put("b", sessions["b"])
    assert [visitors.get(name) is not None for name in "abc"] == [False, True, False]
    large = session(500)
    visitors.put("large", large)
    assert visitors.get("large") is large
    assert len(visitors) == 1


def test_a_new_photo_frees_the_one_before_and_leaving_frees_all(clock):
    visitors = Visitors(clock=clock)
    first, second = session(), session()
    visitors.put("me", first)
    visitors.put("me", second)
    assert first.shelf.cleared
    assert not second.shelf.cleared
    visitors.put("me", second)  # another face of the same photo
    assert not second.shelf.cleared
    visitors.leave("me")
    assert second.shelf.cleared
    assert len(visitors) == 0


def test_results_without_a_session_go_with_the_visitor(clock, tmp_path, monkeypatch):
    monkeypatch.setattr("gra_core.ui.shelf.get_upload_folder", lambda: str(tmp_path))
    visitors = Visitors(clock=clock)
    shelf = visitors.shelf("me", "batch")
    other = visitors.shelf("you", "batch")
    shelf.path("result.zip").touch()
    other.path("result.zip").touch()
    visitors.leave("me")
    assert not shelf.folder.exists()
    assert other.folder.exists()


# --- the line --------------------------------------------------------------------------------------------------------


def waiting(line: Line, visitor: str | None, patience: float = 0.0) -> tuple[threading.Thread, list]:
    """Somebody who joins now, and what that one is told; "in" when it is the turn, which lasts a moment."""
    told: list = []
    place = line.join(visitor)

    def wait() -> None:
        with place:
            told.extend(place.wait(patience))
            told.append("in")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, told


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_line_is_served_in_order_and_each_knows_how_it_stands():
    line = Line()
    first = line.join("a")
    assert list(first.wait()) == []
    second = line.join("b")
    third, told = waiting(line, "c")
    until(lambda: told == [2])
    first.leave()
    until(lambda: told == [2, 1])
    assert list(second.wait()) == []
    second.leave()
    third.join(10)
    assert told == [2, 1, "in"]
    assert list(line.join("d").wait()) == []  # all have left


def test_ones_own_earlier_events_are_waited_for_without_a_word():
    line = Line()
    first = line.join("a")
    thread, told = waiting(line, "a")
    program, told_program = waiting(line, None)
    until(lambda: told_program == [1])
    assert told == []
    first.leave()
    thread.join(10)
    program.join(10)
    assert told == ["in"]
    assert told_program == [1, "in"]


def test_a_short_wait_is_not_worth_a_word():
    line = Line()
    first = line.join("a")
    thread, told = waiting(line, "b", patience=30)
    time.sleep(0.05)
    first.leave()
    thread.join(10)
    assert told == ["in"]


def test_a_place_is_free_after_an_error_and_can_be_given_up():
    line = Line()
    first = line.join("a")
    with pytest.raises(ZeroDivisionError), line.join("b"):  # gone before it was served
        raise ZeroDivisionError
    thread, told = waiting(line, "c")
    until(lambda: told == [1])
    first.leave()
    thread.join(10)
    assert told == [1, "in"]


# --- undo ------------------------------------------------------------------------------------------------------------


def test_undo_and_redo(clock):
    history = History(clock)
    assert not (history.can_undo or history.can_redo)
    history.record({"smile": 10})
    clock.now += 5
    history.record({"smile": 10, "age": 20})
    history.undo()
    assert history.current == {"smile": 10}
    history.undo()
    history.undo()
    assert history.current == {}
    history.redo()
    assert history.current == {"smile": 10}
    history.record({"smile": -5})
    assert not history.can_redo


def test_a_drag_is_one_step(clock):
    history = History(clock)
    for value in range(1, 40):
        history.record({"smile": value})
        clock.now += GESTURE_SECONDS / 2
    history.undo()
    assert history.current == {}
    history.redo()
    assert history.current == {"smile": 39}
    history.record({"smile": 41})  # after an undo a new step begins
    history.undo()
    assert history.current == {"smile": 39}


def test_moves_know_when_they_come_too_late(clock):
    history = History(clock)
    turns = [history.turn]
    history.record({"smile": 10})  # a hand on a slider changes no turn
    assert history.turn == turns[0]
    for change in (history.undo, history.redo, lambda: history.set({"age": 5}), lambda: history.set({"age": 5})):
        change()
        turns.append(history.turn)
    assert len(set(turns)) == 5
    assert History(clock).turn not in turns
    assert 0 not in turns


def test_a_preset_is_a_step_even_right_after_a_drag(clock):
    history = History(clock)
    history.record({"smile": 10})
    history.set({"smile": 75})
    history.record({"smile": 80})
    history.undo()
    assert history.current == {"smile": 75}
    history.undo()
    assert history.current == {"smile": 10}


def test_the_history_is_bounded(clock):
    history = History(clock)
    for value in range(3 * LONGEST):
        history.record({"smile": value + 1})
        clock.now += 10
    steps = 0
    while history.can_undo:
        history.undo()
        steps += 1
    assert steps == LONGEST - 1
