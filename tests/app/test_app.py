"""What the page does behind its widgets, with a stand-in for the model, and the application as users start it."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from gradio.state_holder import SessionState
from PIL import Image
from serving import (
    ORIGINAL,
    StandIn,
    axe_flaws,
    chromium,
    close_up,
    difference,
    eventually,
    like,
    many_edits,
    picture,
    sent,
    served,
    set_slider,
    upload,
    wait_until,
)

from gra_core import export
from gra_core.alignment import TURNED, FaceAligner
from gra_core.compositing import View, compose
from gra_core.constants import PROJECT_ROOT
from gra_core.directions.registry import load_directions
from gra_core.errors import CheckpointError, FaceTooSmallError, GRAError, NoFaceError, UnreadableImageError
from gra_core.ui import batch_tab, custom_edits, edit_tab, gpu, page, presets, private_logging, session, strings
from gra_core.ui.app_state import AppState
from gra_core.ui.examples import example_files
from gra_core.ui.panel import EditPanel
from gra_core.ui.session import FACE_VIEW, PHOTO_VIEW
from gra_core.ui.session_store import SessionStore
from gra_core.ui.temp_store import KEPT_FILES, TempStore

YOURS_IS_NEXT = strings.NEXT.split(",")[0]


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def state(stand_in) -> AppState:
    return AppState(lambda: stand_in, many_edits)


@pytest.fixture
def opened(state, photo_file, tmp_path) -> session.Session:
    visitor = session.open_photo(state, photo_file, "My photo (1).jpg", tmp_path)
    return session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0))


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as shown:
        return np.asarray(shown.convert("RGB"), dtype=float)


# --- app state --------------------------------------------------------------------------------------------------------


def test_the_editor_is_loaded_once_for_all_threads():
    loads = []

    def slow_load():
        loads.append(1)
        time.sleep(0.05)
        return object()

    state = AppState(slow_load)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(state.editor)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(set(map(id, seen))) == 1


def test_a_failed_load_is_tried_again(stand_in):
    outcomes = [CheckpointError("not there yet"), stand_in]

    def load():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    state = AppState(load)
    state.warm_up().join()  # reports to the log only
    assert state.editor is stand_in


def test_warming_up_runs_the_whole_model(state, stand_in):
    state.warm_up().join()
    assert stand_in.inverted == 1


# --- a lent card -----------------------------------------------------------------------------------------------------


def test_a_lent_card_gives_the_same_results_in_main_memory(monkeypatch, editor, face):
    """`spaces` is played here: its calls must get and give values that another process could."""
    import pickle

    def lend(duration):
        assert duration <= 30
        return lambda function: (
            lambda *values: pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(values)))))
        )

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=lend))
    lent = gpu.LoanedEditor(editor, device="cpu")
    inversion = lent.invert(face)
    assert inversion.codes.device.type == "cpu"
    assert not inversion.codes.is_inference()
    result = lent.edit(inversion, {"smile": 40})
    assert difference(result, editor.edit(editor.invert(face), {"smile": 40})) < 0.01
    assert gpu.size_in_bytes(inversion) > 12_000_000  # the pixel residual alone


def test_the_page_works_with_a_lent_card(monkeypatch, editor, photo_file, tmp_path):
    """Upload, move, an edit of one's own and a comparison where `spaces` lends the card, as on ZeroGPU."""
    import functools
    import pickle
    from importlib.machinery import ModuleSpec

    from gra_core.editor import PortraitEditor
    from gra_core.ui import compare_tab

    loans = []

    def lend(duration):
        def mark(function):
            def call(*values):
                loans.append(function.__name__)
                return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(values)))))

            return call

        return mark

    spaces = types.ModuleType("spaces")
    spaces.__spec__, spaces.GPU = ModuleSpec("spaces", None), lend
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(PortraitEditor, "from_pretrained", lambda **_where: editor)
    monkeypatch.setattr(gpu, "LoanedEditor", functools.partial(gpu.LoanedEditor, device="cpu"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRA_LPIPS_WEIGHTS", str(tmp_path / "absent.pt"))
    lent = AppState()
    lent.warm_up().join()
    assert loans == []  # a loan that nobody asked for would be counted all the same
    with gr.Blocks():
        tab = edit_tab.EditTab(lent)
        compare = compare_tab.CompareTab(lent, tab.panel)
    *_, last = tab.on_upload(VISITOR, sent(tab.state, photo_file, "me.png"), *zeros(tab))
    assert strings.READY in last[tab.status]
    values = np.zeros((16, 512), np.float32)
    values[4:8] = 0.3
    np.save(tmp_path / "curly.npy", values)
    *_, last = tab.own.on_file(VISITOR, sent(tab.state, tmp_path / "curly.npy", "curly.npy"), *zeros(tab))
    visit = lent.sessions.get("one")
    moved = zeros(tab)
    moved[0], moved[len(lent.edits)] = 40, 50
    answer = tab.on_move(VISITOR, visit.portrait.history.revision, FACE_VIEW, *moved)
    aligned = visit.portrait.aligned
    expected = editor.render(editor.invert(aligned.image), {"smile": 40, "curly": 50}, visit.edits)
    expected = compose(View.close_up(visit.photo, aligned, 1024), [(aligned, expected)])
    with Image.open(answer[tab.viewer]["value"]["after"]["path"]) as shown:
        assert difference(shown.convert("RGB"), expected) < 2
    *_, last = compare.on_start(VISITOR, None, "[]", compare_tab.ALL_SLIDERS, 0, *moved)
    assert "Done: Smile +40, curly +50" in last[compare.status]
    assert loans == ["lent_invert", "lent_render", "lent_render", "run"]


def test_no_card_is_lent_elsewhere(monkeypatch):
    assert not gpu.on_loan()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert gpu.on_loan() == bool(gpu.importlib.util.find_spec("spaces"))


# --- session -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("text.jpg", UnreadableImageError),
        ("empty.jpg", UnreadableImageError),
        ("bomb.png", UnreadableImageError),
        ("nobody.png", NoFaceError),
    ],
)
def test_bad_photos_are_refused(state, bad_files, tmp_path, name, error):
    with pytest.raises(error):
        session.open_photo(state, bad_files[name], name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_face_is_inverted_once(state, stand_in, pair_file, tmp_path):
    visitor = session.open_photo(state, pair_file, "pair.png", tmp_path)
    assert len(visitor.faces) == 2
    for index in (0, 1, 0, 1):
        visitor = session.choose_face(state, visitor, index, session.align_face(state, visitor, index))
        assert visitor.index == index
        session.render(state, visitor, {"smile": 50.0}, FACE_VIEW)
    assert stand_in.inverted == 2
    first, second = (visitor.portraits[index].aligned.quad for index in (0, 1))
    assert first[:, 0].mean() < 700 < second[:, 0].mean()


def test_the_face_view_is_the_photo_close_up_without_loss(state, opened, stand_in):
    before, after = session.render(state, opened, {"smile": 80.0}, FACE_VIEW)
    aligned = opened.portrait.aligned
    assert difference(Image.open(before).convert("RGB"), aligned.image) == 0
    expected = close_up(opened.photo, aligned, stand_in.edit(aligned.image, {"smile": 80.0}))
    assert difference(Image.open(after).convert("RGB"), expected) == 0


def test_a_large_face_is_downloaded_at_its_own_size(state, astronaut, tmp_path):
    astronaut.resize((4096, 4096)).save(tmp_path / "large.png")
    visitor = session.open_photo(state, tmp_path / "large.png", "large.png", tmp_path)
    visitor = session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0))
    side = round(float(np.hypot(*np.diff(visitor.portrait.aligned.quad[[0, 3]], axis=0)[0])))
    assert side > 1100
    assert visitor.size(FACE_VIEW) == (side, side)
    result = pixels(session.export_result(state, visitor, {"smile": 80.0}, FACE_VIEW))
    assert result.shape == (side, side, 3)
    _, shown = session.render(state, visitor, {"smile": 80.0}, FACE_VIEW)
    smaller = Image.fromarray(result.astype(np.uint8)).resize((1024, 1024), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(smaller, dtype=float) - pixels(shown)).mean() < 2


def test_the_photo_view_has_the_photos_shape(state, opened, photo_file):
    before, after = session.render(state, opened, {"smile": 80.0}, PHOTO_VIEW)
    assert np.abs(pixels(before) - pixels(photo_file)).mean() < 3
    left, top = opened.portrait.aligned.quad.min(axis=0).astype(int)
    assert pixels(after).shape == (512, 512, 3)
    assert np.abs(pixels(after) - pixels(before))[:, : left - 8].mean() < 0.5
    assert pixels(after)[top + 40 : top + 100, left + 40 : left + 100].mean() > 1.1 * (
        pixels(before)[top + 40 : top + 100, left + 40 : left + 100].mean()
    )


def test_large_photos_are_shown_smaller_and_exported_whole(state, astronaut, tmp_path):
    large = astronaut.resize((2400, 2400))
    large.save(tmp_path / "large.jpg", quality=95)
    visitor = session.open_photo(state, tmp_path / "large.jpg", "large.jpg", tmp_path)
    visitor = session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0))
    _, after = session.render(state, visitor, {"smile": 80.0}, PHOTO_VIEW)
    assert pixels(after).shape == (session.PREVIEW_SIDE, session.PREVIEW_SIDE, 3)
    whole = pixels(session.export_result(state, visitor, {"smile": 80.0}, PHOTO_VIEW))
    assert whole.shape == (2400, 2400, 3)
    # The preview is the export made smaller: the edit sits at the same place in both.
    smaller = Image.fromarray(whole.astype(np.uint8)).resize((session.PREVIEW_SIDE,) * 2, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(smaller, dtype=float) - pixels(after)).mean() < 2


def test_exports_are_named_after_photo_and_edits(state, opened):
    path = Path(session.export_result(state, opened, {"smile": 60.0, "age": -30.0}, FACE_VIEW))
    assert path.name == "My photo (1)-smile+60-age-30.png"
    with Image.open(path) as result:
        assert (result.format, result.size) == ("PNG", (1024, 1024))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c.png", "", "...", "x" * 400, "\x00\n.png", "名前.png"])
def test_no_file_name_leaves_the_store(state, photo_file, tmp_path, name):
    visitor = session.open_photo(state, photo_file, name, tmp_path)
    visitor = session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0))
    path = Path(session.export_result(state, visitor, {}, FACE_VIEW))
    assert path.resolve().parent == visitor.store.folder.resolve()
    assert path.name.endswith(".png")


def test_a_store_keeps_few_results_and_forgets_all(tmp_path):
    store = TempStore(tmp_path)
    small = Image.new("RGB", (8, 8))
    pinned = store.keep(small, "photo.jpg")
    results = [store.put(small) for _ in range(3 * KEPT_FILES)]
    assert Path(pinned).exists()
    assert [Path(result).exists() for result in results] == [False] * 2 * KEPT_FILES + [True] * KEPT_FILES
    assert TempStore(tmp_path).folder != store.folder
    store.clear()
    assert not list(tmp_path.iterdir())


def test_a_store_can_wait_for_the_browser(tmp_path):
    store = TempStore(tmp_path)
    store.put(Image.new("RGB", (8, 8)))
    store.clear_later(0.3)
    assert list(tmp_path.iterdir())
    wait_until(lambda: not list(tmp_path.iterdir()))


# --- answers to events ---------------------------------------------------------------------------------------------

VISITOR = SimpleNamespace(session_hash="one")


@pytest.fixture
def tab(state, tmp_path, monkeypatch):
    """The widgets and handlers of the Edit tab, not served."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks():
        return edit_tab.EditTab(state)


def zeros(tab) -> list[int]:
    return [0] * len(tab.panel.sliders)


def choice(index: int) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": None})


def test_an_upload_goes_through_its_steps(tab, state, photo_file):
    steps = list(tab.on_upload(VISITOR, sent(tab.state, photo_file, "me.png"), *zeros(tab)))
    assert [strings.FINDING in steps[0][tab.status], strings.INVERTING in steps[1][tab.status]] == [True, True]
    assert strings.READY in steps[-1][tab.status]
    assert not steps[1][tab.upload]["visible"]
    assert steps[-1][tab.bar]["visible"]
    assert state.sessions.get("one").name == "me"
    assert state.sessions.get("two") is None


def test_what_was_done_to_a_photo_is_said_while_it_is_open(tab, state, astronaut, tmp_path):
    astronaut.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "over.png")
    steps = list(tab.on_upload(VISITOR, sent(tab.state, tmp_path / "over.png", "over.png"), *zeros(tab)))
    assert TURNED[2] in steps[1][tab.notes]["value"]
    assert steps[1][tab.notes]["visible"]
    assert state.sessions.get("one").photo.tobytes() == astronaut.tobytes()
    assert not tab.on_another(VISITOR)[tab.notes]["visible"]


def test_a_photo_is_turned_by_hand(tab, state, photo_file, astronaut):
    *_, last = tab.on_turned(VISITOR, 0, *zeros(tab))
    assert strings.WAITING in last[tab.status]
    list(tab.on_upload(VISITOR, sent(tab.state, photo_file, "me.v2.png"), *zeros(tab)))
    revision, values = state.sessions.get("one").portrait.history.revision, [60, *zeros(tab)[1:]]
    steps = list(tab.on_turned(VISITOR, revision, *values))
    session = state.sessions.get("one")
    assert session.photo.tobytes() == astronaut.tobytes()  # the only way up that shows a face
    assert session.notes == (TURNED[3],)
    assert (session.name, session.portrait.history.current) == ("me.v2", {"smile": 60})
    assert strings.READY in steps[-1][tab.status]
    list(tab.on_turned(VISITOR, session.portrait.history.revision, *values))
    assert state.sessions.get("one").notes == (TURNED[3],)  # said once


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_photo_comes_back_with_its_transparency(state, astronaut, tmp_path, suffix):
    alpha = np.full((512, 512), 255, np.uint8)
    alpha[:, :100], alpha[:, 100:120] = 0, 128
    photo = astronaut.copy()
    photo.putalpha(Image.fromarray(alpha))
    photo.save(tmp_path / "cut.png")
    visitor = session.open_photo(state, tmp_path / "cut.png", "cut.png", tmp_path)
    visitor = session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0))
    path = session.export_result(state, visitor, {}, PHOTO_VIEW, suffix, visible_mark=suffix == ".jpg")
    with Image.open(path) as result:
        if suffix == ".jpg":
            assert result.mode == "RGB"
            assert np.asarray(result)[:, :90].min() > 240
            return
        assert result.mode == "RGBA"
        assert np.array_equal(np.asarray(result)[..., 3], alpha)
        off = np.abs(np.asarray(result, float) - np.asarray(photo, float))[:, 100:]
    assert off.max() <= 1 if suffix == ".png" else off.mean() < 3


def test_a_format_that_cannot_hold_the_photo_is_refused_before_work(state, opened, monkeypatch):
    monkeypatch.setitem(export.MAX_SIDES, "WEBP", 500)
    monkeypatch.setattr(session, "compose", None)
    with pytest.raises(GRAError, match="at most 500 pixels"):
        session.export_result(state, opened, {}, PHOTO_VIEW, ".webp")


def test_what_is_set_while_a_photo_is_read_is_how_it_is_shown(tab, state, photo_file):
    """The sliders themselves stay in the visitor's hands: no step of the upload sets them."""
    values = [30, *zeros(tab)[1:]]
    steps = tab.on_upload(VISITOR, sent(tab.state, photo_file, "me.png"), *values)
    busy = [next(steps), next(steps)]
    answer = tab.on_move(VISITOR, 0, FACE_VIEW, 60, *values[1:])
    assert answer.keys() == {tab.panel.summary}  # the line above the picture still says what is going on
    assert "Smile +60" in answer[tab.panel.summary]
    assert tab.status not in tab.on_preset(VISITOR, choice(0), 0, FACE_VIEW)
    answer = tab.on_move(VISITOR, 0, FACE_VIEW, 100, 20, *values[2:])
    (last,) = steps
    history = state.sessions.get("one").portrait.history
    assert history.current == {"smile": 100, "age": 20}
    assert "Smile +100, Age +20" in last[tab.panel.summary]
    assert not set(tab.panel.sliders[: len(state.edits)]) & {widget for step in (*busy, last) for widget in step}
    assert state.sessions.opening("one") is None


def test_what_is_set_while_the_first_picture_is_made_follows(tab, state, stand_in, photo_file, bad_files):
    *_, last = tab.on_upload(VISITOR, sent(tab.state, photo_file, "me.png"), *zeros(tab))
    revision = last[tab.revision]
    (answer,) = tab.on_opened(VISITOR, revision, FACE_VIEW, *zeros(tab))
    assert answer == {tab.status: gr.skip()}  # nothing was
    (answer,) = tab.on_opened(VISITOR, revision, FACE_VIEW, 60, *zeros(tab)[1:])
    assert tab.viewer in answer
    assert not set(tab.panel.sliders) & set(answer)
    tab.on_reset(VISITOR, revision, FACE_VIEW)
    (answer,) = tab.on_opened(VISITOR, revision, FACE_VIEW, 60, *zeros(tab)[1:])  # the button came later
    assert answer == {tab.status: gr.skip()}
    tab.on_another(VISITOR)
    list(tab.on_upload(VISITOR, sent(tab.state, bad_files["text.jpg"], "text.jpg"), *zeros(tab)))
    (answer,) = tab.on_opened(VISITOR, 0, FACE_VIEW, 60, *zeros(tab)[1:])
    assert answer == {tab.status: gr.skip()}  # what was wrong with the file stays to be read
    assert strings.WAITING in tab.on_move(VISITOR, 0, FACE_VIEW, 60, *zeros(tab)[1:])[tab.status]


def test_a_bad_upload_ends_in_an_empty_page_with_a_message(tab, state, bad_files):
    *_, last = tab.on_upload(VISITOR, sent(tab.state, bad_files["text.jpg"], "text.jpg"), *zeros(tab))
    assert 'role="alert"' in last[tab.status]
    assert "text.jpg is not a picture" in last[tab.status]
    assert last[tab.upload]["visible"]
    assert len(state.sessions) == 0


def test_an_example_goes_the_same_way(tab, photo_file, monkeypatch):
    monkeypatch.setattr(edit_tab, "example_files", lambda: [Path("absent.webp"), photo_file])
    *_, last = tab.on_example(VISITOR, choice(1), *zeros(tab))
    assert strings.READY in last[tab.status]


def test_messages_cannot_carry_markup(tab, tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    evil.write_text("no picture")
    *_, last = tab.on_upload(VISITOR, sent(tab.state, evil, evil.name), *zeros(tab))
    assert "<img" not in last[tab.status]
    assert "&lt;img" in last[tab.status]


def test_a_missing_model_is_explained(photo_file, tmp_path, monkeypatch):
    def load():
        raise CheckpointError("The weights are missing. Run the download.")

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks():
        tab = edit_tab.EditTab(AppState(load))
    *_, last = tab.on_upload(VISITOR, sent(tab.state, photo_file, "me.png"), *zeros(tab))
    assert "Run the download." in last[tab.status]


def test_unexpected_errors_are_logged_and_not_shown(tab, state, opened, stand_in, monkeypatch, caplog):
    def break_down(_inversion, strengths, _edits):
        raise ZeroDivisionError(f"{len(strengths)} secret detail")

    private_logging.install()
    state.sessions.put("one", opened)
    monkeypatch.setattr(stand_in, "edit", break_down)
    answer = tab.on_move(VISITOR, opened.portrait.history.revision, FACE_VIEW, 5, *zeros(tab)[1:])
    assert strings.UNEXPECTED in answer[tab.status]
    assert "1 secret detail" not in answer[tab.status]
    assert "break_down" in caplog.text
    assert "1 secret detail" not in caplog.text  # it may hold what the visitor sent


def test_an_expired_visit_is_explained(tab):
    for answer in (
        tab.on_move(VISITOR, 7, FACE_VIEW, *zeros(tab)),
        tab.on_reset(VISITOR, 7, FACE_VIEW),
        tab.on_undo(VISITOR, 7, FACE_VIEW),
        tab.on_download(VISITOR, 7, FACE_VIEW, "PNG", False, *zeros(tab)),
        next(tab.on_face(VISITOR, choice(1), 7, FACE_VIEW)),
        next(tab.on_animate(VISITOR, 7, "smile", "GIF", *zeros(tab))),
    ):
        assert strings.EXPIRED in answer[tab.status]
        assert answer[tab.upload]["visible"]


def test_sliders_can_be_set_before_there_is_a_photo(tab):
    answer = tab.on_move(VISITOR, 0, FACE_VIEW, 60, *zeros(tab)[1:])
    assert strings.WAITING in answer[tab.status]
    assert tab.upload not in answer


def test_a_move_that_comes_after_a_reset_is_dropped(tab, state, opened):
    """Else the picture would show the slider's old place, and the slider would stand at 0."""
    state.sessions.put("one", opened)
    history = opened.portrait.history
    revision = history.revision
    tab.on_move(VISITOR, revision, FACE_VIEW, 60, *zeros(tab)[1:])
    answer = tab.on_reset(VISITOR, revision, FACE_VIEW)
    assert answer[tab.revision] == history.revision != revision
    late = tab.on_move(VISITOR, revision, FACE_VIEW, 62, *zeros(tab)[1:])
    assert tab.viewer not in late
    assert history.current == {}
    assert tab.viewer in tab.on_move(VISITOR, history.revision, FACE_VIEW, 20, *zeros(tab)[1:])
    assert history.current == {"smile": 20}
    assert tab.viewer not in tab.on_move(VISITOR, history.revision, FACE_VIEW, 20, *zeros(tab)[1:])  # the drag's end


def test_a_face_that_is_too_small_leaves_the_chosen_one(tab, state, pair_file, tmp_path, monkeypatch):
    visitor = session.open_photo(state, pair_file, "pair.png", tmp_path)
    state.sessions.put("one", session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0)))

    def refuse(*_arguments):
        raise FaceTooSmallError("The face is too small.")

    monkeypatch.setattr(state.aligner, "align", refuse)
    *_, last = tab.on_face(VISITOR, choice(1), 7, FACE_VIEW)
    assert "too small" in last[tab.status]
    assert state.sessions.get("one").index == 0


def test_the_sliders_of_a_face_are_shown_before_it_is_read(tab, state, stand_in, pair_file, tmp_path, monkeypatch):
    visitor = session.open_photo(state, pair_file, "pair.png", tmp_path)
    first = session.choose_face(state, visitor, 0, session.align_face(state, visitor, 0))
    first.portrait.history.set({"smile": 40})
    state.sessions.put("one", first)
    revision = first.portrait.history.revision
    smile = tab.panel.sliders[0]

    def refuse(_aligned, _pause):
        raise CheckpointError("The weights are missing.")

    with monkeypatch.context() as broken:
        broken.setattr(stand_in, "invert", refuse)
        _, shown, last = tab.on_face(VISITOR, choice(1), revision, FACE_VIEW)
    assert (shown[smile], shown[tab.faces]["chosen"]) == (0, 1)
    assert (last[smile], last[tab.faces]["chosen"], last[tab.revision]) == (40, 0, revision)  # all is as it was
    assert "weights are missing" in last[tab.status]
    assert state.sessions.get("one").index == 0

    _, shown, last = tab.on_face(VISITOR, choice(1), revision, FACE_VIEW)
    assert smile not in last
    assert last[tab.revision] == shown[tab.revision] != revision
    assert tab.viewer in tab.on_move(VISITOR, shown[tab.revision], FACE_VIEW, 60, *zeros(tab)[1:])
    assert state.sessions.get("one").portrait.history.current == {"smile": 60}
    assert list(tab.on_face(VISITOR, choice(1), revision, FACE_VIEW)) == [{tab.status: gr.skip()}]  # chosen already
    _, shown, last = tab.on_face(VISITOR, choice(0), revision, FACE_VIEW)
    assert (shown[smile], last[tab.revision]) == (40, revision)


def test_a_moving_slider_shows_a_quick_picture_and_a_resting_one_the_same_without_loss(
    tab, state, opened, stand_in, monkeypatch
):
    state.sessions.put("one", opened)
    monkeypatch.setattr(edit_tab, "FINAL_SECONDS", 0.01)

    def move(value: int) -> Path:
        answer = tab.on_move(VISITOR, opened.portrait.history.revision, FACE_VIEW, value, *zeros(tab)[1:])
        return Path(answer[tab.viewer]["value"]["after"]["path"])

    aligned = opened.portrait.aligned
    expected = close_up(opened.photo, aligned, stand_in.edit(aligned.image, {"smile": 60}))
    quick = move(60)
    rest = Path(asyncio.run(tab.on_rest(VISITOR))[tab.viewer]["value"]["after"]["path"])
    assert 0 < np.abs(pixels(quick) - np.asarray(expected, dtype=float)).mean() < 2
    assert np.array_equal(pixels(rest), np.asarray(expected))
    assert quick.stat().st_size < rest.stat().st_size / 2

    async def move_on() -> dict:
        resting = asyncio.create_task(tab.on_rest(VISITOR))
        await asyncio.sleep(0)  # it waits
        move(20)
        return await resting

    move(70)
    assert "value" not in asyncio.run(move_on())[tab.viewer]  # a newer picture is on its way
    tab.on_view(VISITOR, 0, FACE_VIEW)
    assert opened.preview is None


def test_who_waits_for_another_visitor_reads_it(tab, state, opened):
    state.sessions.put("one", opened)
    move = tab.in_line(tab.on_move)
    arguments = (opened.portrait.history.revision, FACE_VIEW, 60, *zeros(tab)[1:])
    with state.queue.join("two"):
        answers = move(VISITOR, *arguments)
        assert YOURS_IS_NEXT in next(answers)[tab.status]
    (answer,) = answers
    assert strings.READY in answer[tab.status]
    (answer,) = move(VISITOR, *arguments[:2], 50, *arguments[3:])  # nobody is there
    assert strings.READY in answer[tab.status]


def test_a_wait_that_ends_in_nothing_new_leaves_no_word_of_waiting(tab, state, opened):
    state.sessions.put("one", opened)
    with state.queue.join("two"):
        move = tab.in_line(tab.on_move)(VISITOR, -1, FACE_VIEW, *zeros(tab))  # too late
        assert YOURS_IS_NEXT in next(move)[tab.status]
    (answer,) = move
    assert strings.READY in answer[tab.status]


def test_without_a_photo_nobody_waits_for_the_model(tab, state, opened):
    preset = tab.at_once_without_photo(tab.on_preset)
    with state.queue.join("two"):
        (answer,) = preset(VISITOR, choice(0), 0, FACE_VIEW)
        assert answer[tab.panel.sliders[0]] == 100
        state.sessions.put("one", opened)
        assert YOURS_IS_NEXT in next(preset(VISITOR, choice(0), 0, FACE_VIEW))[tab.status]


def test_the_comparison_offers_the_visitors_own_edits_and_open_face(tab, state, opened, monkeypatch):
    from gra_core import comparison
    from gra_core.ui import compare_tab

    compared = []

    def compare(_editor, aligned, strengths, edits):
        compared.append((aligned, strengths, edits))
        raise NoFaceError("Stop here.")

    monkeypatch.setattr(comparison, "compare", compare)
    with gr.Blocks():
        compare_tab_ = compare_tab.CompareTab(state, tab.panel)
    own = state.sessions.add_edit("one", many_edits()["smile"], state.edits)
    offered = compare_tab_.on_open(VISITOR, "age")
    assert ((own.label, own.key) in offered["choices"], offered["value"]) == (True, "age")
    assert compare_tab_.on_open(SimpleNamespace(session_hash="two"), own.key)["value"] == "smile"  # not theirs
    *_, last = compare_tab_.on_start(VISITOR, None, "[]", own.key, 50, *zeros(tab))
    assert strings.COMPARE_EMPTY in last[compare_tab_.status]
    state.sessions.put("one", opened)
    *_, last = compare_tab_.on_start(VISITOR, None, "[]", own.key, 50, *zeros(tab))
    assert "My photo (1): Stop here." in last[compare_tab_.status]
    values = zeros(tab)
    values[:2] = 30, -20
    list(compare_tab_.on_start(VISITOR, None, "[]", compare_tab.ALL_SLIDERS, 50, *values))
    assert [strengths for _, strengths, _ in compared] == [{own.key: 50}, {"smile": 30, "age": -20}]
    assert [list(edits) for *_, edits in compared] == [[own.key], ["smile", "age"]]
    assert compared[0][0] is opened.portrait.aligned.image


def test_every_edit_has_its_slider(tab):
    edits = many_edits()
    sliders = tab.panel.sliders[: len(edits)]
    assert [slider.elem_id for slider in sliders] == [f"edit-{key}" for key in edits]
    for slider, edit in zip(sliders, edits.values(), strict=True):
        assert (slider.minimum, slider.maximum, slider.value) == (edit.minimum, edit.maximum, 0)
        assert (slider.label, slider.info) == (edit.label, strings.hint(edit.hint))


def test_hints_say_in_words_what_either_side_does():
    assert strings.hint("+ smiles more, - looks more serious.") == "Right: smiles more. Left: looks more serious."
    assert (
        strings.hint("+ darker chin, up to a beard, - clean-shaven.")
        == "Right: darker chin, up to a beard. Left: clean-shaven."
    )
    assert strings.hint("+ puts glasses on.") == "Right: puts glasses on."
    assert strings.hint("From a face.") == "From a face."
    assert not any(strings.hint(edit.hint).startswith("+") for edit in load_directions().values())


def test_many_edits_are_folded_by_group():
    edits = many_edits()
    with gr.Blocks() as blocks:
        panel = EditPanel(edits)
    assert [slider.label for slider in panel.sliders][: len(edits)] == [edit.label for edit in edits.values()]
    folds = [block for block in blocks.blocks.values() if isinstance(block, gr.Accordion)]
    first, more, *_, own = folds
    assert (first.label, first.open) == (strings.FIRST, True)
    assert (more.label, more.open) == ("More 0: extra 0, extra 1, extra 2, extra 3, extra 4", False)
    assert (own.label, own.open) == ("Your own edits", False)
    assert len(folds) == 6


def test_the_most_wanted_sliders_come_first():
    edits = load_directions()
    with gr.Blocks() as blocks:
        panel = EditPanel(edits)
    by_place = [block.label for block in blocks.blocks.values() if isinstance(block, gr.Slider)]
    assert by_place[:5] == ["Smile", "Age", "Turn head", "Glasses", "Masculine or feminine"]
    assert len(panel.sliders) == len(edits) + custom_edits.MOST


def test_presets_are_of_edits_that_there_are():
    edits = load_directions()
    assert len(presets.available(edits)) >= 5
    assert presets.available({"smile": edits["smile"]}).keys() == {"Big smile", "Serious"}
    for strengths in presets.PRESETS.values():
        assert all(-100 <= value <= 100 for value in strengths.values())


# --- the application as users start it -------------------------------------------------------------------------------


def test_the_application_edits_and_compares(astronaut, photo_file, bad_files, editor, tmp_path, monkeypatch):
    """The real model behind the real page: what is shown and downloaded is what the editor makes."""
    monkeypatch.setenv("GRA_LPIPS_WEIGHTS", str(tmp_path / "absent.pt"))
    with served(tmp_path, ["app.py"]) as url, chromium() as browser:
        tab = browser.new_page()
        tab.set_default_timeout(120_000)
        tab.goto(url)
        tab.wait_for_selector("#upload input[type=file]", state="attached")
        upload(tab, photo_file)
        aligned = FaceAligner().align_photo(astronaut)
        inversion = editor.invert(aligned.image)
        serious = compose(astronaut, [(aligned, editor.render(inversion, {"smile": -80}))])
        assert like(astronaut, 3)(picture(tab, ORIGINAL))
        eventually(tab, like(astronaut, 3))
        assert difference(serious, astronaut, aligned.face.box) > 10
        set_slider(tab, "smile", "-80")
        eventually(tab, lambda shown: difference(shown, serious, aligned.face.box) < 4)  # JPEG alone takes 3
        with tab.expect_download() as download:
            tab.locator("#download").click()
        download.value.save_as(tmp_path / "photo.png")
        with Image.open(tmp_path / "photo.png") as result:
            assert difference(result, serious) < 0.1

        tab.get_by_role("tab", name="Compare").click()
        photos = [photo_file, bad_files["nobody.png"], example_files()[1]]
        tab.set_input_files("#compare-files input[type=file]", photos)
        tab.wait_for_selector("#compare-files .file-preview")
        tab.locator("#compare-start").click()
        tab.wait_for_selector("#compare-sheet", state="visible")
        assert strings.NO_LPIPS in tab.locator("#compare-status").inner_text()
        assert "nobody.png: No face found" in tab.locator("#compare-status").inner_text()
        names = tab.locator(".comparison-row h2").all_inner_texts()
        assert names == [photo_file.name, example_files()[1].name]
        assert axe_flaws(tab) == []
        titles = tab.locator(".comparison-row").first.locator("figcaption b").all_inner_texts()
        assert titles == ["Input", "Low-rate code", "One-shot, not aligned", "Gradual, not aligned", "GRA"]
        assert tab.locator(".comparison-row dl").last.inner_text().split()[::2] == ["MSE", "Identity"]
        assert tab.locator(".comparison-row table img").count() == 24
        with tab.expect_download() as download:
            tab.locator("#compare-sheet").click()
        assert download.value.suggested_filename == "comparison-smile+60.png"
        download.value.save_as(tmp_path / "sheet.png")
        assert Image.open(tmp_path / "sheet.png").width > 1800


def test_the_page_can_be_built_without_the_model(state):
    built = page.build_page(state)
    assert page.launch_options(built)["run_history"] is False
    for thread in threading.enumerate():
        if thread.name == "warm-up":
            thread.join()  # a thread in native code at the end of the program would end it with a crash


def test_a_batch_that_has_to_wait_says_so(state):
    with gr.Blocks():
        tab = batch_tab.BatchTab(state, EditPanel(state.edits))
    assert strings.BATCH_WAITING in tab.on_wait(None, '["a.png"]')
    assert strings.BATCH_WAITING not in tab.on_wait(None, "[]")


@pytest.mark.parametrize("manifest", [None, "{", "[]"])
def test_a_start_without_usable_weights_is_one_sentence(tmp_path, manifest):
    project = tmp_path / "project"
    shutil.copytree(PROJECT_ROOT / "gra_core", project / "gra_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT_ROOT / "assets", project / "assets")
    shutil.copy(PROJECT_ROOT / "app.py", project)
    (project / "checkpoints").mkdir()
    if manifest is not None:
        (project / "checkpoints" / "manifest.json").write_text(manifest)
        shutil.copy(PROJECT_ROOT / "checkpoints" / "directions.safetensors", project / "checkpoints")
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path) not in done.stderr


def test_the_container_runs_as_a_number():
    """Kubernetes' runAsNonRoot refuses an image whose user is a name."""
    assert re.findall(r"^USER (.+)$", (PROJECT_ROOT / "Dockerfile").read_text(), re.M) == ["1000"]


def test_a_batch_lasts_as_long_as_it_takes(stand_in, photo_file, tmp_path, monkeypatch):
    """Photos and zip of a batch of more than an hour used to be deleted before it was done."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    now = [0.0]
    slow = StandIn()
    slow.invert = lambda aligned: now.__setitem__(0, now[0] + 60) or aligned  # a minute each
    state = AppState(lambda: slow, many_edits, sessions=SessionStore(lifetime=100, clock=lambda: now[0]))
    photos = []
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        photos.append(shutil.copy(photo_file, tmp_path / str(index) / f"{index}.png"))
    with gr.Blocks():
        tab = batch_tab.BatchTab(state, EditPanel(state.edits))
    *_, last = tab.on_start(
        VISITOR, None, json.dumps([sent(state, photo)["path"] for photo in photos]), FACE_VIEW, "PNG", 30
    )
    assert "4 of 4 photos edited" in last[tab.status]
    result = Path(last[tab.result]["value"])
    now[0] += 90
    state.sessions.end_old_ones()
    assert result.exists()
    now[0] += 20
    state.sessions.end_old_ones()
    assert not result.exists()


def test_an_answer_touches_only_the_components_that_it_names():
    """Gradio makes all outputs of an event anew, which slows everybody's edits down."""
    with page.Page() as blocks:
        named, also, left_out = gr.Textbox(), gr.Slider(0, 10), gr.Slider()
        gr.Button().click(lambda: None, None, [named, also, left_out])
    function, state = next(iter(blocks.fns.values())), SessionState(blocks)

    def answer(given: object) -> list[object]:
        return asyncio.run(blocks.postprocess_data(function, given, state))

    keep = {"__type__": "update"}
    assert answer({named: "words"}) == ["words", keep, keep]
    assert answer({also: gr.update(value=3, maximum=5)}) == [keep, {"value": 3, "maximum": 5, **keep}, keep]
    assert answer({also: 4, named: gr.skip()}) == [keep, 4, keep]
    assert answer({named: "more", also: 2}) == ["more", 2, keep]
    assert answer({left_out: gr.skip()}) == [keep, keep, keep]
    assert state[left_out._id] is left_out
    assert state[also._id].maximum == 5
    assert answer(["a", 1, 2]) == ["a", 1, 2]
    with pytest.raises(ValueError, match="not specified as output"):
        answer({named: "words", gr.Textbox(): "of another event"})
