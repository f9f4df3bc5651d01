"""The page: its logic with a stand-in for the model, then the real application in a real browser."""

import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from gra_core.alignment import AlignedFace, FaceAligner, paste_back
from gra_core.constants import PROJECT_ROOT
from gra_core.directions.registry import load_directions
from gra_core.errors import CheckpointError, FaceTooSmallError, NoFaceError, UnreadableImageError
from gra_core.ui import page, session
from gra_core.ui.session import FACE_VIEW, KEPT_FILES, PHOTO_VIEW, Shelf, Studio

FACE_BOX = (300, 300, 724, 800)  # eyes to chin in an aligned face of 1024 px


class StandIn:
    """In the editor's place: smile makes the picture brighter."""

    def __init__(self):
        self.inverted = 0
        self.edits = load_directions()

    def invert(self, aligned):
        self.inverted += 1
        return aligned

    def edit(self, inversion, strengths):
        return ImageEnhance.Brightness(inversion).enhance(1 + strengths.get("smile", 0) / 200)


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def studio(stand_in) -> Studio:
    return Studio(lambda: stand_in)


@pytest.fixture
def opened(studio, photo_file, tmp_path) -> session.Session:
    visitor = session.open_photo(studio, photo_file, "My photo (1).jpg", tmp_path)
    return session.choose_face(studio, visitor, 0, session.align_face(studio, visitor, 0))


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)


# --- session -------------------------------------------------------------------------------------------------------


def test_the_editor_is_loaded_once_for_all_threads():
    loads = []

    def slow_load():
        loads.append(1)
        time.sleep(0.05)
        return object()

    studio = Studio(slow_load)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(studio.editor)) for _ in range(8)]
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

    studio = Studio(load)
    studio.warm_up().join()  # reports to the log only
    assert studio.editor is stand_in


def test_warming_up_runs_the_whole_model(studio, stand_in):
    studio.warm_up().join()
    assert stand_in.inverted == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("text.jpg", UnreadableImageError),
        ("empty.jpg", UnreadableImageError),
        ("bomb.png", UnreadableImageError),
        ("nobody.png", NoFaceError),
    ],
)
def test_bad_photos_are_refused(studio, bad_files, tmp_path, name, error):
    with pytest.raises(error):
        session.open_photo(studio, bad_files[name], name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_slider_values_are_read_forgivingly():
    edits = load_directions()
    keys = list(edits)
    values = [250.0, None, float("nan"), -3, *[0] * (len(keys) - 4)]
    assert session.read_strengths(edits, tuple(values)) == {keys[0]: 100.0, keys[3]: max(-3.0, edits[keys[3]].minimum)}


def test_a_face_is_inverted_once(studio, stand_in, pair_file, tmp_path):
    visitor = session.open_photo(studio, pair_file, "pair.png", tmp_path)
    assert len(visitor.faces) == 2
    for index in (0, 1, 0, 1):
        visitor = session.choose_face(studio, visitor, index, session.align_face(studio, visitor, index))
        assert visitor.index == index
        session.render(studio, visitor, {"smile": 50.0}, FACE_VIEW)
    assert stand_in.inverted == 2
    first, second = (visitor.portraits[index].aligned.quad for index in (0, 1))
    assert first[:, 0].mean() < 700 < second[:, 0].mean()


def test_the_face_view_is_the_edited_crop(studio, opened):
    before, after = session.render(studio, opened, {"smile": 80.0}, FACE_VIEW)
    assert pixels(before).shape == pixels(after).shape == (1024, 1024, 3)
    assert pixels(after).mean() > pixels(before).mean() + 20


def test_the_photo_view_has_the_photos_shape(studio, opened, photo_file):
    before, after = session.render(studio, opened, {"smile": 80.0}, PHOTO_VIEW)
    assert np.abs(pixels(before) - pixels(photo_file)).mean() < 3
    left, top = opened.portrait.aligned.quad.min(axis=0).astype(int)
    assert pixels(after).shape == (512, 512, 3)
    assert np.abs(pixels(after) - pixels(before))[:, : left - 8].mean() < 0.5
    assert pixels(after)[top + 40 : top + 100, left + 40 : left + 100].mean() > 1.1 * (
        pixels(before)[top + 40 : top + 100, left + 40 : left + 100].mean()
    )


def test_large_photos_are_shown_smaller_and_exported_whole(studio, astronaut, tmp_path):
    large = astronaut.resize((2400, 2400))
    large.save(tmp_path / "large.jpg", quality=95)
    visitor = session.open_photo(studio, tmp_path / "large.jpg", "large.jpg", tmp_path)
    visitor = session.choose_face(studio, visitor, 0, session.align_face(studio, visitor, 0))
    _, after = session.render(studio, visitor, {"smile": 80.0}, PHOTO_VIEW)
    assert pixels(after).shape == (session.PREVIEW_SIDE, session.PREVIEW_SIDE, 3)
    whole = pixels(session.export(studio, visitor, {"smile": 80.0}, PHOTO_VIEW))
    assert whole.shape == (2400, 2400, 3)
    # The preview is the export made smaller: the edit sits at the same place in both.
    smaller = Image.fromarray(whole.astype(np.uint8)).resize((session.PREVIEW_SIDE,) * 2, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(smaller, dtype=float) - pixels(after)).mean() < 2


def test_exports_are_named_after_photo_and_edits(studio, opened):
    path = Path(session.export(studio, opened, {"smile": 60.0, "age": -30.0}, FACE_VIEW))
    assert path.name == "My-photo-1-smile+60-age-30.png"
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (1024, 1024))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c.png", "", "...", "x" * 400, "\x00\n.png", "名前.png"])
def test_no_file_name_leaves_the_shelf(studio, photo_file, tmp_path, name):
    visitor = session.open_photo(studio, photo_file, name, tmp_path)
    visitor = session.choose_face(studio, visitor, 0, session.align_face(studio, visitor, 0))
    path = Path(session.export(studio, visitor, {}, FACE_VIEW))
    assert path.resolve().parent == visitor.shelf.folder.resolve()
    assert path.name.endswith(".png")


def test_a_shelf_keeps_few_results_and_forgets_all(tmp_path):
    shelf = Shelf(tmp_path)
    picture = Image.new("RGB", (8, 8))
    pinned = shelf.keep(picture, "photo.jpg")
    results = [shelf.put(picture) for _ in range(3 * KEPT_FILES)]
    assert Path(pinned).exists()
    assert [Path(result).exists() for result in results] == [False] * 2 * KEPT_FILES + [True] * KEPT_FILES
    assert Shelf(tmp_path).folder != shelf.folder
    shelf.clear()
    assert not list(tmp_path.iterdir())


def test_forgetting_deletes_the_visitors_files(studio, opened, tmp_path):
    session.render(studio, opened, {}, PHOTO_VIEW)
    session.export(studio, opened, {}, FACE_VIEW)
    session.forget(opened)
    session.forget(None)
    assert not list(tmp_path.iterdir())


def test_forgetting_can_wait_for_the_browser(studio, opened, tmp_path):
    session.render(studio, opened, {}, FACE_VIEW)
    session.forget(opened, after=0.3)
    assert list(tmp_path.iterdir())
    deadline = time.monotonic() + 20
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- answers to events ---------------------------------------------------------------------------------------------


@pytest.fixture
def widgets(studio):
    """The page's widgets and handlers, not served."""
    with page.gr.Blocks():
        return page.Page(studio)


def text(answer: dict, widgets) -> str:
    return answer[widgets.status]["value"]


def test_an_upload_goes_through_its_steps(widgets, photo_file):
    steps = list(widgets.on_upload({"path": str(photo_file), "orig_name": "me.png"}, None))
    assert [page.FINDING in text(steps[0], widgets), page.INVERTING in text(steps[1], widgets)] == [True, True]
    assert page.READY in text(steps[-1], widgets)
    assert steps[-1][widgets.controls]["visible"]
    assert not steps[-1][widgets.upload]["visible"]
    visitor = steps[-1][widgets.session]
    session.forget(visitor)
    assert visitor.name == "me"


def test_a_bad_upload_ends_in_an_empty_page_with_a_message(widgets, bad_files):
    *_, last = widgets.on_upload({"path": str(bad_files["text.jpg"]), "orig_name": "text.jpg"}, None)
    assert 'role="alert"' in text(last, widgets)
    assert "text.jpg is not a picture" in text(last, widgets)
    assert last[widgets.session] is None
    assert last[widgets.upload]["visible"]


def test_an_example_goes_the_same_way(widgets, photo_file, monkeypatch):
    monkeypatch.setattr(page, "example_files", lambda: [Path("absent.webp"), photo_file])
    *_, last = widgets.on_example(1, None)
    assert page.READY in text(last, widgets)
    session.forget(last[widgets.session])


def test_messages_cannot_carry_markup(widgets, tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    evil.write_text("no picture")
    *_, last = widgets.on_upload({"path": str(evil), "orig_name": evil.name}, None)
    assert "<img" not in text(last, widgets)
    assert "&lt;img" in text(last, widgets)


def test_a_missing_model_is_explained(photo_file):
    def load():
        raise CheckpointError("The weights are missing. Run the download.")

    with page.gr.Blocks():
        widgets = page.Page(Studio(load))
    *_, last = widgets.on_upload({"path": str(photo_file), "orig_name": "me.png"}, None)
    assert "Run the download." in text(last, widgets)


def test_unexpected_errors_are_logged_and_not_shown(widgets, opened, stand_in, monkeypatch, caplog):
    def break_down(*_arguments):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(stand_in, "edit", break_down)
    answer = widgets.on_move(opened, FACE_VIEW, *[0] * len(widgets.sliders))
    assert page.UNEXPECTED in text(answer, widgets)
    assert "secret detail" not in text(answer, widgets)
    assert "secret detail" in caplog.text


def test_an_expired_visit_is_explained(widgets):
    zeros = [0] * len(widgets.sliders)
    for answer in (
        widgets.on_move(None, FACE_VIEW, *zeros),
        widgets.on_reset(None, FACE_VIEW),
        widgets.on_download(None, FACE_VIEW, *zeros),
        next(widgets.on_face(page.gr.SelectData(None, {"index": 1, "value": None}), None)),
    ):
        assert page.EXPIRED in text(answer, widgets)
        assert answer[widgets.upload]["visible"]


def test_a_face_that_is_too_small_leaves_the_chosen_one(widgets, studio, pair_file, tmp_path, monkeypatch):
    visitor = session.open_photo(studio, pair_file, "pair.png", tmp_path)
    visitor = session.choose_face(studio, visitor, 0, session.align_face(studio, visitor, 0))

    def refuse(*_arguments):
        raise FaceTooSmallError("The face is too small.")

    monkeypatch.setattr(studio.aligner, "align", refuse)
    *_, last = widgets.on_face(page.gr.SelectData(None, {"index": 1, "value": None}), visitor)
    assert "too small" in text(last, widgets)
    assert last[widgets.faces]["selected_index"] == 0
    assert widgets.session not in last


def test_every_edit_has_its_slider(widgets):
    edits = load_directions()
    assert [slider.elem_id for slider in widgets.sliders] == [f"edit-{key}" for key in edits]
    for slider, edit in zip(widgets.sliders, edits.values(), strict=True):
        assert (slider.minimum, slider.maximum, slider.value) == (edit.minimum, edit.maximum, 0)
        assert (slider.label, slider.info) == (edit.label, edit.hint)


# --- in a browser --------------------------------------------------------------------------------------------------

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Address of the application, started as users start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
    }
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                output = (folder / "log").read_text()
                assert process.poll() is None, f"app.py ended:\n{output}"
                assert time.monotonic() < deadline, f"app.py does not answer:\n{output}"
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import Error, sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_OPTIONS)
        except Error as error:
            pytest.fail(
                "No browser for the page tests: install Chromium (Debian: apt-get install chromium; elsewhere: "
                f"python -m playwright install chromium). {error}",
                pytrace=False,
            )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def tab(context, url):
    """A fresh visit; fails when the page asked anyone else for anything."""
    requests = []
    tab = context.new_page()
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(url)
    tab.wait_for_selector("#upload input[type=file]", state="attached")
    yield tab
    tab.close()
    assert [address for address in requests if not address.startswith((url, "data:", "blob:"))] == []


@pytest.fixture
def ready(tab, photo_file):
    """A visit with the astronaut inverted."""
    tab.set_input_files("#upload input[type=file]", photo_file)
    tab.wait_for_selector("#controls", state="visible")
    tab.wait_for_selector("#status .ready")
    return tab


ORIGINAL, RESULT = "#comparison img >> nth=0", "#comparison img >> nth=1"


def picture(tab, selector: str = RESULT) -> Image.Image:
    """A picture as the browser gets it."""
    response = tab.request.get(tab.locator(selector).get_attribute("src"))
    assert response.ok
    with Image.open(io.BytesIO(response.body())) as shown:
        return shown.convert("RGB")


def eventually(tab, wanted, seconds: float = 60) -> Image.Image:
    """The result as soon as it is as `wanted`; fails when it does not become so."""
    deadline = time.monotonic() + seconds
    while not wanted(shown := picture(tab)):
        assert time.monotonic() < deadline, "the picture did not become what it should"
        tab.wait_for_timeout(200)
    return shown


def like(expected: Image.Image, tolerance: float = 2.0):
    """Whether a picture is the expected one but for its compression."""
    return lambda shown: shown.size == expected.size and difference(shown, expected) < tolerance


@pytest.fixture(scope="module")
def aligned(astronaut) -> AlignedFace:
    return FaceAligner().align_photo(astronaut)


@pytest.fixture(scope="module")
def render(editor, aligned):
    """What the page should show for some slider values, computed apart from it."""
    inversion = editor.invert(aligned.image)
    return lambda **strengths: editor.edit(inversion, strengths)


def difference(one: Image.Image, other: Image.Image, box: tuple[int, int, int, int] | None = None) -> float:
    first, second = (np.asarray(image.crop(box) if box else image, dtype=float) for image in (one, other))
    return float(np.abs(first - second).mean())


def set_slider(tab, key: str, value: str) -> None:
    tab.locator(f"#edit-{key} input[type=number]").fill(value)


def test_a_slider_edits_the_face_and_reset_undoes_it(ready, render, aligned):
    assert like(aligned.image)(picture(ready, ORIGINAL))
    plain = eventually(ready, like(render()))
    serious = render(smile=-80)
    assert difference(serious, render(), FACE_BOX) > 2
    set_slider(ready, "smile", "-80")
    assert eventually(ready, like(serious)).size == (1024, 1024)
    ready.locator("#reset").click()
    eventually(ready, lambda shown: difference(shown, plain) == 0)
    assert ready.locator("#edit-smile input[type=number]").input_value() == "0"


def test_the_last_of_many_moves_wins(ready, render):
    plain = eventually(ready, like(render()))
    set_slider(ready, "age", "40")
    older = eventually(ready, lambda shown: difference(shown, plain) > 0)
    assert like(render(age=40))(older)
    ready.locator("#reset").click()
    eventually(ready, lambda shown: difference(shown, plain) == 0)
    handle = ready.locator("#edit-age input[type=range]")
    handle.focus()
    for _ in range(40):
        handle.press("ArrowRight")
    eventually(ready, lambda shown: difference(shown, older) == 0)
    assert ready.locator("#edit-age input[type=number]").input_value() == "40"


def test_the_whole_photo_and_its_download(ready, render, astronaut, aligned, tmp_path):
    face = (180, 70, 280, 180)
    plain, whole = (paste_back(astronaut, render(age=strength), aligned) for strength in (0, 70))
    assert difference(whole, plain, face) > 1
    ready.get_by_label("Whole photo").click()
    set_slider(ready, "age", "70")
    eventually(
        ready,
        lambda shown: like(whole, 3.0)(shown) and difference(shown, whole, face) < difference(shown, plain, face),
    )
    with ready.expect_download() as download:
        ready.locator("#download").click()
    assert download.value.suggested_filename == "astronaut-age+70.png"
    download.value.save_as(tmp_path / "result.png")
    with Image.open(tmp_path / "result.png") as result:
        assert (result.format, result.size) == ("PNG", astronaut.size)
        assert difference(result, whole) < 0.1


def test_the_face_downloads_at_full_size(ready, render, tmp_path):
    with ready.expect_download() as download:
        ready.locator("#download").click()
    download.value.save_as(tmp_path / "face.png")
    with Image.open(tmp_path / "face.png") as face:
        assert (face.format, face.size) == ("PNG", (1024, 1024))
        assert difference(face, render()) < 0.1


@pytest.mark.parametrize(("name", "words"), [("text.jpg", "not a picture"), ("nobody.png", "No face")])
def test_a_bad_photo_gets_a_message_and_another_try(tab, bad_files, photo_file, name, words):
    tab.set_input_files("#upload input[type=file]", bad_files[name])
    assert words in tab.wait_for_selector("#status [role=alert]").inner_text()
    assert not tab.locator("#controls").is_visible()
    tab.set_input_files("#upload input[type=file]", photo_file)
    tab.wait_for_selector("#controls", state="visible")
    assert tab.locator("#status [role=alert]").count() == 0


def test_another_face_can_be_chosen(tab, pair_file):
    photo = Image.open(pair_file)
    crops = [FaceAligner().align_photo(photo, index).image for index in (0, 1)]
    tab.set_input_files("#upload input[type=file]", pair_file)
    tab.wait_for_selector("#controls", state="visible")
    faces = tab.locator("#faces .thumbnail-item")
    assert faces.count() == 2
    assert like(crops[0])(picture(tab, ORIGINAL))
    faces.nth(1).click()
    tab.wait_for_selector("#status .busy")
    tab.wait_for_selector("#status .ready")
    assert like(crops[1])(picture(tab, ORIGINAL))
    assert not like(crops[0])(picture(tab, ORIGINAL))


def test_visitors_do_not_see_each_others_photos(ready, browser, url, render, astronaut, tmp_path):
    ImageOps.mirror(astronaut).save(tmp_path / "mirrored.png")
    plain = eventually(ready, like(render()))
    with browser.new_context() as other_context:
        other = other_context.new_page()
        other.goto(url)
        other.set_input_files("#upload input[type=file]", tmp_path / "mirrored.png")
        other.wait_for_selector("#status .ready", timeout=60_000)
        set_slider(other, "age", "50")
        set_slider(ready, "smile", "30")
        eventually(ready, lambda shown: difference(shown, plain) > 0)
        assert like(render(smile=30))(picture(ready))
        assert not like(picture(ready, ORIGINAL))(picture(other, ORIGINAL))
        other.locator("#another").click()
        other.wait_for_selector("#upload", state="visible")
    ready.locator("#reset").click()
    eventually(ready, lambda shown: difference(shown, plain) == 0)


def test_a_new_photo_starts_over(ready):
    set_slider(ready, "smile", "50")
    ready.locator("#another").click()
    ready.wait_for_selector("#upload", state="visible")
    ready.wait_for_selector("#controls", state="hidden")
    assert ready.locator("#welcome").is_visible()


def test_the_page_fits_a_phone(ready):
    ready.set_viewport_size({"width": 390, "height": 844})
    assert ready.evaluate("document.documentElement.scrollWidth") <= 390
    ready.locator("#edit-gender").scroll_into_view_if_needed()
    box = ready.locator("#comparison").bounding_box()
    assert box["y"] >= -1  # the picture stays in sight
    assert box["y"] + box["height"] < ready.locator("#edit-gender").bounding_box()["y"] + 1
