"""Edits that visitors bring: files, mappers and descriptions become sliders for them alone."""

from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from serving import StandIn, StandInWords, difference, many_edits, sent, wait_until
from small_weights import mapper_checkpoint

from gra_core.directions.text import TextDirections
from gra_core.errors import DirectionFileError, GRAError, MissingPackageError
from gra_core.ui import app_state, custom_edits, custom_edits_panel, edit_tab, gpu, strings
from gra_core.ui.app_state import AppState
from gra_core.ui.panel import EditPanel
from gra_core.ui.session import FACE_VIEW
from gra_core.ui.session_store import SessionStore

ME, YOU = SimpleNamespace(session_hash="me"), SimpleNamespace(session_hash="you")
AVERAGE = np.zeros(512, np.float32)


def direction_file(folder, name="Curly hair.npy", **values):
    """A direction that moves one number of row 3, or what `values` says, by row."""
    rows = np.zeros((16, 512), np.float32)
    for row, value in (values or {"r3": 4.0}).items():
        rows[int(row[1:]), 5] = value
    np.save(folder / name, rows)
    return folder / name


@pytest.fixture
def shared_state():
    return AppState(StandIn, many_edits, StandInWords)


@pytest.fixture
def tab(shared_state, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr("gra_core.ui.temp_store.PATIENCE", 0.1)
    with gr.Blocks():
        return edit_tab.EditTab(shared_state)


def values_of(tab, **strengths):
    """Values of all sliders, by key of shared edits or number of the own one."""
    keys = [*tab.state.edits, *(f"own{index}" for index in range(custom_edits.MOST))]
    return [strengths.get(key, 0) for key in keys]


def shown(tab, answer):
    """Labels of the own sliders that an answer shows."""
    return [
        answer[slider]["label"]
        for slot, slider in zip(tab.panel.slots, tab.panel.own_sliders, strict=True)
        if answer[slot]["visible"]
    ]


def open_photo(tab, photo_file, visitor=ME):
    *_, last = tab.on_upload(visitor, sent(tab.state, photo_file), *values_of(tab))
    assert strings.READY in last[tab.status]
    return tab.state.sessions.get(visitor.session_hash).portrait.history


def test_a_file_becomes_a_slider_of_that_visitor_only(tab, photo_file, tmp_path):
    for visitor in (ME, YOU):
        open_photo(tab, photo_file, visitor)
    file = direction_file(tmp_path)
    busy, last = tab.own.on_file(ME, sent(tab.state, file), *values_of(tab))
    assert "Curly hair.npy" in busy[tab.status]
    assert shown(tab, last) == ["Curly hair"]
    assert ("Curly hair", "curly_hair") in last[tab.moved]["choices"]
    file.unlink()
    wait_until(lambda: not list(tmp_path.rglob("*.npy")))  # what was read of it is all that is kept
    assert "curly_hair" in tab.state.edits_of("me")
    assert "curly_hair" not in tab.state.edits_of("you")
    pictures = {}
    for visitor in (ME, YOU):
        session = tab.state.sessions.get(visitor.session_hash)
        answer = tab.on_move(visitor, session.portrait.history.revision, FACE_VIEW, *values_of(tab, own0=60))
        pictures[visitor.session_hash] = session.portrait.history.current
        assert (tab.viewer in answer) == (visitor is ME)
    assert pictures == {"me": {"curly_hair": 60}, "you": {}}


def test_own_edits_take_part_in_everything(tab, photo_file, tmp_path):
    history = open_photo(tab, photo_file)
    list(tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path)), *values_of(tab)))
    answer = tab.on_move(ME, history.revision, FACE_VIEW, *values_of(tab, smile=20, own0=-60))
    assert "Smile +20, Curly hair -60" in answer[tab.panel.summary]
    assert '"curly_hair": -60' in tab.on_save(ME, *values_of(tab, own0=-60))
    assert tab.on_share(*values_of(tab, smile=20, own0=-60))[0] == "smile=20"
    name = tab.on_download(ME, history.revision, FACE_VIEW, "PNG", False, *values_of(tab, own0=-60))[tab.file]
    assert name.endswith("astronaut-curly_hair-60.png")
    *_, last = tab.on_animate(ME, history.revision, "curly_hair", "WebP", *values_of(tab))
    assert last[tab.animation]["value"]["orig_name"] == "astronaut-curly_hair-sweep.webp"
    assert tab.on_another(ME)[tab.panel.own_sliders[0]] == 0
    assert "curly_hair" in tab.state.edits_of("me")  # it waits for the next photo
    open_photo(tab, photo_file)
    assert "curly_hair" in tab.state.sessions.get("me").edits


def test_removing_an_edit_takes_it_out_of_the_picture_and_the_history(tab, photo_file, tmp_path):
    history = open_photo(tab, photo_file)
    for name in ("a.npy", "b.npy"):
        list(tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path, name)), *values_of(tab)))
    tab.on_move(ME, history.revision, FACE_VIEW, *values_of(tab, own0=30))
    tab.on_move(ME, history.revision, FACE_VIEW, *values_of(tab, own0=30, own1=40))
    answer = tab.own.on_remove(0, ME, history.revision, FACE_VIEW, *values_of(tab, own0=30, own1=40))
    assert shown(tab, answer) == ["b"]
    assert strings.REMOVED in answer[tab.status]
    assert answer[tab.panel.own_sliders[0]]["value"] == 40
    assert history.current == {"b": 40}
    assert answer[tab.revision] == history.revision
    history.undo()
    assert history.current == {}
    assert not history.can_undo  # the step that moved nothing but the removed one is gone
    history.redo()
    assert history.current == {"b": 40}
    answer = tab.own.on_remove(3, ME, history.revision, FACE_VIEW, *values_of(tab))
    assert shown(tab, answer) == ["b"]  # there is no fourth


def test_without_a_photo_too(tab, tmp_path):
    for name in ("a.npy", "b.npy"):
        *_, last = tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path, name)), *values_of(tab, own0=25))
    assert last[tab.panel.own_sliders[0]]["value"] == 25
    answer = tab.own.on_remove(0, ME, 0, FACE_VIEW, *values_of(tab, own0=25, own1=35))
    assert shown(tab, answer) == ["b"]
    assert answer[tab.panel.own_sliders[0]]["value"] == 35


def test_bad_files_are_explained_and_the_page_goes_on(tab, photo_file, tmp_path):
    open_photo(tab, photo_file)
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "nan.npy", np.full(512, np.nan))
    torch.save({"x": torch.ones(2), "y": torch.ones(2)}, tmp_path / "two.pt")
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(2**30)
    for name, said in (
        ("text.npy", "no .npy file"),
        ("nan.npy", "not finite"),
        ("two.pt", "2 tensors"),
        ("huge.pt", "larger"),
    ):
        *_, last = tab.own.on_file(ME, sent(tab.state, tmp_path / name), *values_of(tab))
        assert 'role="alert"' in last[tab.status]
        assert said in last[tab.status]
        (tmp_path / name).unlink()
        wait_until(lambda name=name: not list(tmp_path.rglob(name)))
    *_, last = tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path)), *values_of(tab))
    assert shown(tab, last) == ["Curly hair"]


def test_there_is_room_for_few(tab, tmp_path):
    for _ in range(custom_edits.MOST):
        *_, last = tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path, "smile.npy")), *values_of(tab))
    assert shown(tab, last) == ["smile (2)", "smile (3)", "smile (4)", "smile (5)", "smile (6)", "smile (7)"]
    *_, last = tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path)), *values_of(tab))
    assert "Remove one first" in last[tab.status]


def test_a_visit_that_ended_leaves_no_sliders_behind(tab, photo_file, tmp_path):
    history = open_photo(tab, photo_file)
    list(tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path)), *values_of(tab)))
    tab.state.sessions.leave("me")
    answer = tab.on_move(ME, history.revision, FACE_VIEW, *values_of(tab, own0=50))
    assert strings.EXPIRED in answer[tab.status]
    assert shown(tab, answer) == []
    *_, last = tab.on_upload(ME, sent(tab.state, photo_file), *values_of(tab, own0=50))
    assert shown(tab, last) == []  # also where the page did not hear of it, for want of a photo


def test_a_description_becomes_a_slider_that_shows_at_once(tab, photo_file):
    history = open_photo(tab, photo_file)
    revision = history.revision
    busy, last = tab.own.on_describe(ME, "", "freckles", *values_of(tab))
    assert "freckles" in busy[tab.status]
    assert shown(tab, last) == ["freckles"]
    assert last[tab.panel.own_sliders[0]]["value"] == custom_edits_panel.IN_WORDS_STRENGTH
    assert history.current == {"text_edit": custom_edits_panel.IN_WORDS_STRENGTH}
    assert tab.viewer in tab.own.on_added(ME, revision, FACE_VIEW)
    assert tab.viewer not in tab.own.on_added(ME, history.revision, FACE_VIEW)  # an error stays to be read
    *_, last = tab.own.on_describe(ME, "a face", " ", *values_of(tab))
    assert "Describe the edit" in last[tab.status]


def test_an_edit_described_while_a_photo_is_read_is_known_to_it(tab, photo_file, tmp_path):
    list(tab.own.on_file(ME, sent(tab.state, direction_file(tmp_path)), *values_of(tab)))
    steps = tab.on_upload(ME, sent(tab.state, photo_file), *values_of(tab, own0=25))
    next(steps)
    *_, added = tab.own.on_describe(ME, "", "freckles", *values_of(tab, own0=25))
    *_, last = steps
    assert shown(tab, last) == ["Curly hair", "freckles"]
    own = [last[slider].get("value") for slider in tab.panel.own_sliders]
    assert own == [None, None, 0, 0, 0, 0]  # where they stand is the page's affair
    assert tab.own.on_added(ME, 0, FACE_VIEW) == {tab.status: gr.skip()}  # nor does this put them back
    at = [added[slider]["value"] for slider in tab.panel.own_sliders]
    (answer,) = tab.on_opened(ME, last[tab.revision], FACE_VIEW, *values_of(tab)[: -len(at)], *at)
    assert "Curly hair +25, freckles +60" in answer[tab.panel.summary]


def test_clip_that_cannot_be_had_is_explained(tab):
    def refuse():
        raise MissingPackageError("CLIP could not be downloaded.")

    tab.own.state = AppState(StandIn, many_edits, refuse)
    *_, last = tab.own.on_describe(ME, "", "freckles", *values_of(tab))
    assert "could not be downloaded" in last[tab.status]


@pytest.mark.parametrize(("switch", "there"), [("1", True), ("0", False)])
def test_the_box_for_words_can_be_switched_off(shared_state, monkeypatch, switch, there):
    monkeypatch.setenv("GRA_TEXT_EDITS", switch)
    with gr.Blocks() as blocks:
        edit_tab.EditTab(shared_state)
    (box,) = [block for block in blocks.blocks.values() if block.elem_id == "describe"]
    assert box.visible == there


def test_words_become_edits_of_the_real_generator(editor, clip_folder, tmp_path):
    class Quick(TextDirections):
        """Averages over one face."""

        def direction(self, *prompts):
            return super().direction(*prompts, faces=1)

    loads = []

    def load():
        loads.append(1)
        return Quick.from_pretrained(str(clip_folder), cache=tmp_path)

    shared = AppState(lambda: editor, load_words=load)
    edit = shared.describe_edit("a face", "a blue face")
    assert (edit.kind, edit.label) == ("text", "a blue face")
    assert np.isfinite(edit.vector).all()
    with pytest.raises(GRAError, match="mean the same"):
        shared.describe_edit("a face", "a face")
    assert len(loads) == 1


# --- mappers ---------------------------------------------------------------------------------------------------------


def test_a_mapper_is_told_from_a_direction(tmp_path):
    torch.save(mapper_checkpoint(("fine",)), tmp_path / "afro_hair.pt")
    mapper = custom_edits.read_edit(tmp_path / "afro_hair.pt", "afro_hair.pt", AVERAGE)
    assert (mapper.kind, mapper.label) == ("mapper", "afro hair")
    assert gpu.size_in_bytes(mapper) > 4 * 512 * 512 * 4  # its weights count, too
    torch.save(torch.ones(512), tmp_path / "plain.pt")
    assert custom_edits.read_edit(tmp_path / "plain.pt", "plain.pt", AVERAGE).kind == "file"


def test_own_edits_with_the_real_editor(editor, face, tmp_path):
    torch.save(mapper_checkpoint(("medium",)), tmp_path / "surprised.pt")
    own = {
        "surprised": custom_edits.read_edit(tmp_path / "surprised.pt", "surprised.pt", editor.average_code),
        "curly": custom_edits.read_edit(direction_file(tmp_path, r4=9.0, r5=9.0), "curly.npy", editor.average_code),
    }
    inversion = editor.invert(face)
    plain = editor.edit(inversion, {})
    assert difference(editor.edit(inversion, {"surprised": 0, "curly": 0}, editor.edits | own), plain) == 0
    changed = {key: editor.edit(inversion, {key: 60}, editor.edits | own) for key in own}
    assert all(difference(picture, plain) > 0.3 for picture in changed.values())
    with pytest.raises(GRAError, match="no edit named"):
        editor.edit(inversion, {"curly": 60})


def test_the_operators_mappers_are_offered_to_all(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "mappers"
    folder.mkdir()
    for name in ("surprised", "smile"):
        torch.save(mapper_checkpoint(("medium",), seed=len(name)), folder / f"{name}.pt")
    (folder / "broken.pt").write_text("no checkpoint")
    monkeypatch.setenv(app_state.MAPPERS, f"{folder}, {tmp_path / 'absent.pt'}")
    edits = app_state.load_registry()
    assert [key for key, edit in edits.items() if edit.kind == "mapper"] == ["smile_2", "surprised"]
    assert np.abs(edits["surprised"].vector[4:8]).max() > 0
    assert "broken.pt" in caplog.text
    assert "absent.pt" in caplog.text
    with gr.Blocks():
        panel = EditPanel(edits)
    assert "surprised" in [slider.label for slider in panel.sliders]


def test_a_mapper_of_the_hub(monkeypatch, tmp_path):
    torch.save(mapper_checkpoint(("medium",)), tmp_path / "angry.pt")
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(tmp_path / "angry.pt")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert list(custom_edits.load_mappers("owner/styleclip/mappers/angry.pt", AVERAGE, {})) == ["angry"]
    assert asked == [("owner/styleclip", "mappers/angry.pt")]


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_own_edits_count_and_end_with_the_visit(tmp_path):
    now = [0.0]
    sessions = SessionStore(capacity=100_000, lifetime=100, clock=lambda: now[0])
    edit = custom_edits.read_edit(direction_file(tmp_path), "curly.npy", AVERAGE)  # 32 KB
    for visitor in "abcd":
        sessions.add_edit(visitor, edit, {})
    assert [len(sessions.edits(visitor)) for visitor in "abcd"] == [0, 1, 1, 1]
    sessions.leave("b")
    assert sessions.edits("b") == {}
    now[0] = 101
    sessions.end_old_ones()
    assert sessions.edits("c") == sessions.edits("d") == {}
    with pytest.raises(DirectionFileError):
        custom_edits.read_edit(tmp_path / "absent.npy", "absent.npy", AVERAGE)
