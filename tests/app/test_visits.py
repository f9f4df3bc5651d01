"""Sessions in bounded memory, what is on disk and when it goes, the line for the model, and undo."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from serving import DISGUISES, SERVER, files_in, start, wait_until

from gra_core.constants import PROJECT_ROOT
from gra_core.errors import GRAError
from gra_core.ui import strings, temp_dir, widgets
from gra_core.ui.admission import (
    AGED,
    MOST_CALLS,
    MOST_PLACES,
    MOST_WAITING,
    SEAT_SECONDS,
    AdmissionQueue,
    QueueFullError,
    Work,
)
from gra_core.ui.history import GESTURE_SECONDS, LONGEST, History
from gra_core.ui.received import FRESH, UNUSED, Received, StorageFullError
from gra_core.ui.session_store import SessionStore
from gra_core.ui.temp_store import KEPT_FILES, TempStore
from gra_core.ui.uploads import UploadList


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class FakeStore:
    def __init__(self):
        self.cleared = False

    def clear_later(self):
        self.cleared = True


def session(nbytes: int = 10) -> types.SimpleNamespace:
    return types.SimpleNamespace(nbytes=nbytes, store=FakeStore())


@pytest.fixture
def clock():
    return Clock()


def test_a_session_is_found_by_its_visitor_only(clock):
    sessions = SessionStore(clock=clock)
    mine = session()
    sessions.put("me", mine)
    assert sessions.get("me") is mine
    assert sessions.get("you") is None
    assert sessions.get(None) is None


def test_sessions_end_when_they_were_not_used_for_long(clock):
    sessions = SessionStore(lifetime=100, clock=clock)
    idle, used = session(), session()
    sessions.put("idle", idle)
    sessions.put("used", used)
    clock.now += 60
    assert sessions.get("used") is used
    clock.now += 60
    assert sessions.get("idle") is None
    assert idle.store.cleared
    assert sessions.get("used") is used


def test_old_sessions_make_room_for_new_ones(clock):
    sessions = SessionStore(capacity=100, clock=clock)
    kept = {name: session(40) for name in "abc"}
    for name, one in kept.items():
        sessions.put(name, one)
        clock.now += 1
    assert [sessions.get(name) is not None for name in "abc"] == [False, True, True]
    assert kept["a"].store.cleared
    kept["b"].nbytes = 70  # another face was inverted
    sessions.put("b", kept["b"])
    assert [sessions.get(name) is not None for name in "abc"] == [False, True, False]
    large = session(500)
    sessions.put("large", large)
    assert sessions.get("large") is large
    assert len(sessions) == 1


def test_a_new_photo_frees_the_one_before_and_leaving_frees_all(clock):
    sessions = SessionStore(clock=clock)
    first, second = session(), session()
    sessions.put("me", first)
    sessions.put("me", second)
    assert first.store.cleared
    assert not second.store.cleared
    sessions.put("me", second)  # another face of the same photo
    assert not second.store.cleared
    sessions.leave("me")
    assert second.store.cleared
    assert len(sessions) == 0


def test_work_for_a_visitor_who_left_is_not_kept(clock):
    """The page may be closed while a photo is being inverted."""
    sessions = SessionStore(clock=clock)
    visit = sessions.visit("me")
    sessions.leave("me")
    assert not sessions.put("me", session(), visit)
    assert sessions.get("me") is None
    visit = sessions.visit("me")  # a page that lost its connection for a moment goes on under the same key
    assert sessions.put("me", session(), visit)
    assert sessions.get("me") is not None


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """The folder in which Gradio keeps uploads."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    monkeypatch.setattr("gra_core.ui.temp_store.PATIENCE", 0.2)
    return folder


def upload_to(folder, name="me.png", content=b"a photo", place="0123"):
    """A file as Gradio puts it there: in a folder named by what is in it."""
    (folder / place).mkdir(exist_ok=True)
    (folder / "part").write_bytes(content)
    return (folder / "part").rename(folder / place / name)


def wait_for_timers() -> None:
    """Until all is deleted that is to be deleted soon."""
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    wait_until(lambda: not any(timer.is_alive() for timer in timers if timer.interval < 1))


def test_results_without_a_session_go_with_the_visitor(clock, uploads):
    sessions = SessionStore(clock=clock)
    store = sessions.store("me", "batch")
    other = sessions.store("you", "batch")
    assert sessions.store("me", "batch") is store
    store.path("result.zip").touch()
    other.path("result.zip").touch()
    sessions.leave("me")
    assert not store.folder.exists()
    assert other.folder.exists()
    with pytest.raises(GRAError, match="upload"):  # work that goes on leaves no file behind
        store.path("late.zip")


def test_results_of_long_work_are_there_when_it_is_done(clock, uploads):
    """They used to be deleted an hour after the batch began."""
    sessions = SessionStore(lifetime=100, clock=clock)
    store = sessions.new_store("me", "batch")
    for _ in range(5):  # photos of a batch
        clock.now += 60
        sessions.get("me")
    store.path("result.zip").touch()
    clock.now += 90
    sessions.end_old_ones()
    assert (store.folder / "result.zip").exists()
    clock.now += 20
    sessions.end_old_ones()
    assert not store.folder.exists()


def test_files_stay_when_others_need_the_memory(clock, uploads):
    sessions = SessionStore(capacity=100, clock=clock)
    sessions.put("me", session(60))
    store = sessions.store("me", "batch")
    store.path("result.zip").touch()
    sessions.put("you", session(60))
    assert sessions.get("me") is None
    assert store.folder.exists()
    sessions.leave("me")
    assert not store.folder.exists()


# --- uploaded files --------------------------------------------------------------------------------------------------


def test_an_upload_moves_to_the_store(uploads):
    received, store = Received(), TempStore()
    upload = received.add(upload_to(uploads))
    path = received.take(str(upload), store)
    assert path.read_bytes() == b"a photo"
    assert received.take(str(upload), store) == path
    wait_until(lambda: not upload.parent.exists())
    assert received.take(str(upload), store) == path  # the list on the page may still tell of the old place
    store.clear()
    assert list(uploads.iterdir()) == []
    with pytest.raises(GRAError, match="upload it again"):
        received.take(str(upload), TempStore())


def test_two_visitors_with_the_same_photo_have_one_each(uploads):
    """Gradio keeps both at one place."""
    received, first, second = Received(), TempStore(), TempStore()
    one, two = (received.add(upload_to(uploads)) for _ in range(2))
    assert one != two
    received.take(str(one), first)
    wait_for_timers()
    first.clear()
    assert received.take(str(two), second).read_bytes() == b"a photo"


def test_two_photos_of_one_name_stay_two(uploads):
    received, store = Received(), TempStore()
    places = [received.add(upload_to(uploads, content=text)) for text in (b"one", b"two")]
    paths = [received.take(str(place), store) for place in places]
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]
    assert {path.name for path in paths} == {"me.png"}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_client_names_its_uploads_and_nothing_else(uploads, tmp_path, disguise):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (uploads / "link.png").symlink_to(secret)
    received, store = Received(), TempStore()
    store.write("kept/mine.png", lambda part: part.write_bytes(b"mine"))
    upload_to(uploads, "not told.png")
    for path in (secret, uploads / "link.png", uploads / "0123" / "not told.png"):
        said = disguise(path)
        assert not received.use(said)
        assert store.find(said) is None
        for ask in (received.path, lambda said: received.take(said, store)):
            with pytest.raises(GRAError, match="upload it again"):
                ask(said)
        received.discard(said)
    wait_for_timers()
    assert secret.exists()


def test_uploads_go_when_they_are_no_longer_fresh_and_leftovers_too(uploads, clock):
    received, store = Received(clock=clock), TempStore()
    taken, used, unused = (received.add(upload_to(uploads, name)) for name in ("taken.png", "used.png", "unused.png"))
    kept = received.take(str(taken), store)
    assert received.use(str(used))
    wait_for_timers()
    for name in ("tmp1234", "fresh"):
        (uploads / name).write_bytes(b"part of a photo")
    os.utime(uploads / "tmp1234", (1, 1))
    clock.now += UNUSED + 1
    received.sweep()
    places = (kept, used, unused, uploads / "tmp1234", uploads / "fresh")
    assert [place.exists() for place in places] == [True, True, False, False, True]
    clock.now += FRESH
    received.sweep()
    assert [place.exists() for place in places] == [True, False, False, False, True]
    store.clear()
    received.sweep()
    assert received.room("") == received.room("nobody")


def test_each_visitor_has_room_and_all_together(uploads, clock):
    received = Received(visitor_bytes=100, total_bytes=300_000, clock=clock)
    mine = received.add(upload_to(uploads, content=bytes(60)), "me")
    assert [received.room(who) for who in ("me", "you")] == [40, 100]
    with received.arriving("me", 30), pytest.raises(StorageFullError, match="room"), received.arriving("me", 30):
        pass
    with received.arriving("me", 30) as room:
        assert room == 40
    store = TempStore()
    received.take(str(mine), store)
    wait_for_timers()
    assert received.room("me") == 40  # it is still there, in a store
    store.clear()
    assert received.room("me") == 100
    (uploads / "much").write_bytes(bytes(300_000))
    assert received.room("me") == 0


def test_a_full_disk_leaves_no_partial_file_and_is_said_so(uploads):
    def save(part: Path) -> None:
        part.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    store = TempStore()
    store.write("whole.png", lambda part: part.write_bytes(b"whole"))
    with pytest.raises(OSError, match="No space") as caught:
        store.write("result.png", save)
    assert widgets.explain(caught.value) == strings.NO_ROOM
    assert [path.name for path in store.folder.iterdir()] == ["whole.png"]


def test_results_of_a_visit_do_not_pile_up(uploads):
    store = TempStore()
    for index in range(3 * KEPT_FILES):
        store.put_file(f"portrait-{index}.png", lambda part: part.write_bytes(b"result"))
    assert len(list(store.folder.iterdir())) == KEPT_FILES


def test_a_list_of_files_lasts_as_long_as_the_visit(uploads, tmp_path):
    received, sessions, me = Received(), SessionStore(), types.SimpleNamespace(session_hash="me")
    with gr.Blocks():
        files = UploadList(received, sessions, gr.File(file_count="multiple"), "list")

    def new(place: str) -> Path:
        return received.add(upload_to(uploads, place=place))

    def chosen(*paths) -> str:
        return json.dumps(list(map(str, paths)))

    one, two = map(new, ("one", "two"))
    kept = files.on_upload(me, None, chosen(one, two))
    wait_until(lambda: not one.exists() and not two.exists())
    assert [str(path) for path in files.read(me, chosen(*kept))] == kept
    assert [str(path) for path in files.read(me, chosen(one, two))] == kept  # the button was quicker than the list
    three = new("three")
    more = files.on_upload(me, None, chosen(*kept, three))  # added to those that are there
    assert more[:2] == kept
    (tmp_path / "mine.png").touch()
    for name in (f"{Path(kept[1]).parent}/../../../mine.png", str(tmp_path / "mine.png")):
        files.on_delete(me, types.SimpleNamespace(file=types.SimpleNamespace(path=name)))
    files.on_delete(me, types.SimpleNamespace(file=types.SimpleNamespace(path=kept[0])))
    assert [os.path.exists(path) for path in (*more, tmp_path / "mine.png")] == [False, True, True, True]
    for gone in (kept[0], tmp_path / "mine.png"):  # no upload, or one of a server before this one
        with pytest.raises(GRAError, match="upload it again"):
            files.read(me, chosen(gone))
    with pytest.raises(GRAError, match="upload it again"):
        files.read(types.SimpleNamespace(session_hash="you"), chosen(kept[1]))
    files.on_upload(me, None, chosen(new("four")))  # other ones
    wait_until(lambda: not os.path.exists(more[1]))
    files.on_clear(me)
    wait_until(lambda: not any(names for *_, names in os.walk(uploads)))
    (last,) = files.on_upload(me, None, chosen(new("five")))
    sessions.leave("me")
    assert not os.path.exists(last)


# --- the folder of a run ---------------------------------------------------------------------------------------------

CLAIM = "from gra_core.ui import temp_dir; print(temp_dir.claim(), flush=True); input()"


def run(root) -> tuple[subprocess.Popen, Path]:
    """A run that has its folder in `root`, and the folder."""
    environment = os.environ | {temp_dir.TEMP_DIR: str(root), "PYTHONPATH": str(PROJECT_ROOT)}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CLAIM], env=environment, stderr=subprocess.DEVNULL, **streams)
    return process, Path(process.stdout.readline().strip())


def test_a_killed_run_is_cleaned_up_after_and_a_living_one_left_alone(tmp_path):
    (tmp_path / "other").mkdir()
    living, kept = run(tmp_path)
    killed, leftover = run(tmp_path)
    for folder in (kept, leftover):
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / temp_dir.UPLOADS / "photo.png").touch()
    killed.kill()
    killed.wait()
    assert leftover.exists()
    (tmp_path / f"{temp_dir.PREFIX}new").mkdir()  # another run is just making it
    (tmp_path / f"{temp_dir.PREFIX}old").mkdir()
    os.utime(tmp_path / f"{temp_dir.PREFIX}old", (1, 1))
    (tmp_path / f"{temp_dir.PREFIX}link").symlink_to(tmp_path / "other")
    temp_dir.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "other",
        kept.name,
        f"{temp_dir.PREFIX}new",
        f"{temp_dir.PREFIX}link",
    }
    assert (kept / temp_dir.UPLOADS / "photo.png").exists()
    living.communicate("\n")
    assert not kept.exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_server_leaves_no_photo_behind(tmp_path, photo_file, name):
    """However it ends: by Ctrl+C, as a service that is stopped, with its terminal."""
    process, url = start(tmp_path, [SERVER])
    try:
        edit = Client(url, verbose=False, download_files=str(tmp_path / "downloads")).predict
        edit(handle_file(photo_file), {"smile": 60}, api_name="/edit")
        assert {path.suffix for path in files_in(tmp_path)} == {".png"}
        process.send_signal(getattr(signal, name))
        process.wait(timeout=30)
    finally:
        process.kill()
    assert list((tmp_path / "gradio").iterdir()) == []
    assert "Traceback" not in (tmp_path / "log").read_text()


# --- the line --------------------------------------------------------------------------------------------------------


def waiting(queue: AdmissionQueue, visitor: str | None, patience: float = 0.0) -> tuple[threading.Thread, list]:
    """Somebody who joins now, and what that one is told; "in" when it is the turn, which lasts a moment."""
    told: list = []
    place = queue.join(visitor)

    def wait() -> None:
        with place:
            told.extend(standing.others for standing in place.wait(patience))
            told.append("in")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, told


def test_the_line_is_served_in_order_and_each_knows_how_it_stands():
    queue = AdmissionQueue()
    first = queue.join("a")
    assert list(first.wait()) == []
    second = queue.join("b")
    third, told = waiting(queue, "c")
    wait_until(lambda: told == [2])
    first.leave()
    wait_until(lambda: told == [2, 1])
    assert list(second.wait()) == []
    second.leave()
    third.join(10)
    assert told == [2, 1, "in"]
    assert list(queue.join("d").wait()) == []  # all have left


def test_ones_own_earlier_events_are_waited_for_without_a_word():
    queue = AdmissionQueue()
    first = queue.join("a")
    thread, told = waiting(queue, "a")
    program, told_program = waiting(queue, None)
    wait_until(lambda: told_program == [1])
    assert told == []
    first.leave()
    thread.join(10)
    program.join(10)
    assert told == ["in"]
    assert told_program == [1, "in"]


def test_a_short_wait_is_not_worth_a_word():
    queue = AdmissionQueue()
    first = queue.join("a")
    thread, told = waiting(queue, "b", patience=30)
    time.sleep(0.05)
    first.leave()
    thread.join(10)
    assert told == ["in"]


def test_a_place_is_free_after_an_error_and_can_be_given_up():
    queue = AdmissionQueue()
    first = queue.join("a")
    with pytest.raises(ZeroDivisionError), queue.join("b"):  # gone before it was served
        raise ZeroDivisionError
    thread, told = waiting(queue, "c")
    wait_until(lambda: told == [1])
    first.leave()
    thread.join(10)
    assert told == [1, "in"]


def test_slider_moves_go_before_new_photos_but_not_for_ever(clock):
    queue = AdmissionQueue(clock)
    serving = queue.join("a")
    serving.arrive()
    photo, move = queue.join("b", Work.OPEN), queue.join("c")
    serving.leave()
    assert queue._next() is move
    clock.now += AGED + 1
    assert queue._next() is photo
    photo.arrive()
    assert queue._next() is None


def test_who_has_waited_long_for_a_seat_still_gives_way(clock):
    """Photos that had waited for a seat used to go before all slider moves, one after the other."""
    queue = AdmissionQueue(clock)
    queue.seats = 2
    for visitor in "ab":
        with queue.join(visitor) as place:
            place.arrive()
    photo = queue.join("c", Work.OPEN)
    clock.now += 1.5 * AGED
    assert queue._next() is None
    queue.leave("b")
    move = queue.join("a")
    assert queue._next() is move
    move.leave()
    photo.arrive()
    clock.now += 1.5 * AGED
    move = queue.join("a")
    queue._serving, photo.ready = None, clock.now  # between two steps
    assert queue._next() is move


def test_long_work_gives_way_to_slider_moves():
    queue = AdmissionQueue()
    with queue.join("a", Work.OPEN) as photo:
        photo.arrive()
        queue.give_way()  # nobody is there
        other = queue.join("b", Work.OPEN)
        thread, told = waiting(queue, "c")
        queue.give_way()
        thread.join(10)
        assert told[-1] == "in"
        assert queue._serving is photo  # the other photo came later
    other.arrive()


def test_ones_own_events_keep_their_order():
    queue = AdmissionQueue()
    serving = queue.join("b")
    serving.arrive()
    face = queue.join("a", Work.OPEN)
    queue.join("a")
    serving.leave()
    assert queue._next() is face


def test_a_machine_has_as_many_seats_as_it_serves_well():
    queue = AdmissionQueue()
    for seconds, seats in ((0.5, 3), (0.3, 4), (0.025, 41), (30.0, 2)):
        queue.set_speed(seconds)
        assert queue.seats == seats


def test_only_who_has_a_photo_keeps_a_seat(clock):
    """Pages without a photo used to take all seats for a minute each by switching the view."""
    queue = AdmissionQueue(clock, stays={"photo"}.__contains__)
    queue.seats = 1
    for visitor in ("a", "b", "photo"):
        with queue.join(visitor) as place:
            assert queue._next() is place
            place.arrive()
    refused = queue.join("c", Work.OPEN)
    assert queue._next() is None
    clock.now += 2 * SEAT_SECONDS
    assert queue._next() is refused


def test_who_finds_no_seat_is_told_the_place_and_gets_one_when_it_is_free(clock):
    queue = AdmissionQueue(clock)
    queue.seats = 3
    for visitor in "abc":
        with queue.join(visitor, Work.OPEN) as place:
            place.arrive()
            clock.now += 10
    fourth, fifth = queue.join("d", Work.OPEN), queue.join("e", Work.OPEN)
    first, second = next(fourth.wait(0)), next(fifth.wait(0))
    assert [first.seat, second.seat] == [1, 2]
    assert 0 < first.seconds < second.seconds
    assert "number 2 in line" in strings.in_line(*second)
    assert queue._next() is None
    with queue.join("a") as move:  # whoever has a seat goes on
        move.arrive()
    with queue.join() as program:  # needs none
        program.arrive()
    queue.leave("b")
    assert queue._next() is fourth
    fourth.arrive()
    fourth.leave()
    assert queue._next() is None
    clock.now += SEAT_SECONDS + 1  # the others have long done nothing
    assert queue._next() is fifth
    returns = queue.join("a")  # and have to wait for a seat like everybody else
    fifth.arrive()
    assert not queue._at_once(returns)


def test_a_full_line_asks_to_come_again(clock):
    queue = AdmissionQueue(clock)
    serving = queue.join("a")
    serving.arrive()
    for index in range(MOST_WAITING):
        queue.join(f"visitor {index}", Work.OPEN)
    with pytest.raises(QueueFullError, match=r"try again in about \d+ (seconds|minutes)"):
        queue.join("one too many", Work.OPEN)
    queue.join("a")  # a slider move of somebody with a seat finds room
    programs = [queue.join(work=Work.OPEN) for _ in range(MOST_CALLS)]
    for refuse in (queue.check, lambda: queue.join(work=Work.OPEN)):
        with pytest.raises(QueueFullError):
            refuse()
    programs[0].leave()
    queue.check()


def test_one_visitor_cannot_fill_the_line():
    queue = AdmissionQueue()
    for _ in range(MOST_PLACES):
        queue.join("a", Work.OPEN)
    with pytest.raises(QueueFullError):
        queue.join("a", Work.OPEN)
    queue.join("b", Work.OPEN)


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
    revisions = [history.revision]
    history.record({"smile": 10})  # a hand on a slider changes no revision
    assert history.revision == revisions[0]
    for change in (history.undo, history.redo, lambda: history.set({"age": 5}), lambda: history.set({"age": 5})):
        change()
        revisions.append(history.revision)
    assert len(set(revisions)) == 5
    assert History(clock).revision not in revisions
    assert 0 not in revisions


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
