"""Every path of the page in a real browser, with a quick stand-in for the model."""

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps, ImageStat
from serving import (
    ORIGINAL,
    SERVER,
    HeldStandIn,
    StandIn,
    axe_flaws,
    chromium,
    close_up,
    difference,
    drawn,
    eventually,
    fetch,
    files_in,
    free_port,
    launched,
    like,
    many_edits,
    picture,
    served,
    set_slider,
    upload,
    wait_until,
)

from gra_core import settings
from gra_core.alignment import TURNED, AlignedFace, FaceAligner
from gra_core.compositing import View
from gra_core.constants import IMAGE_SIZE
from gra_core.export import SOURCE_TYPE
from gra_core.ui import strings


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "camera"])
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture(scope="module")
def only_tab(context):
    """A tab that has loaded the page's scripts before loads them in half the time."""
    return context.new_page()


@pytest.fixture
def tab(only_tab, url):
    """A fresh visit; fails on an error in the page, or when it asked anyone else for anything."""
    requests, errors = [], []
    listeners = {
        "request": lambda request: requests.append(request.url),
        "pageerror": lambda error: errors.append(str(error)),
    }
    only_tab.goto("about:blank")  # what the visit before is still about to do belongs to that one
    for event, listener in listeners.items():
        only_tab.on(event, listener)
    visit(only_tab, url)
    yield only_tab
    for event, listener in listeners.items():
        only_tab.remove_listener(event, listener)
    assert [address for address in requests if not address.startswith((url, "data:", "blob:"))] == []
    assert errors == []


def visit(tab, url: str) -> None:
    tab.goto(url)
    tab.wait_for_selector("#upload input[type=file]", state="attached")
    tab.wait_for_selector("#presets button")


@pytest.fixture
def opened(tab, photo_file):
    """A visit with the astronaut opened."""
    upload(tab, photo_file)
    return tab


@pytest.fixture
def ready(tab, photo_file):
    """The same, close up."""
    upload_face(tab, photo_file)
    return tab


def upload_face(tab, photo: object) -> None:
    """Open a photo and look at its face."""
    upload(tab, photo)
    see_face(tab)


def see_face(tab) -> None:
    """Switch to the face; the mouse stays where it is."""
    tab.get_by_label("Face", exact=True).evaluate("choice => choice.click()")
    eventually(tab, lambda shown: shown.size == (IMAGE_SIZE, IMAGE_SIZE))


@pytest.fixture(scope="module")
def aligned(astronaut) -> AlignedFace:
    return FaceAligner().align_photo(astronaut)


@pytest.fixture(scope="module")
def edited(aligned):
    """The edited crop for some slider values."""
    return lambda **strengths: StandIn().edit(aligned.image, strengths)


@pytest.fixture(scope="module")
def render(astronaut, aligned, edited):
    """What the page should show of the face for some slider values."""
    return lambda **strengths: close_up(astronaut, aligned, edited(**strengths))


def slider_value(tab, key: str) -> str:
    return tab.locator(f"#edit-{key} input[type=number]").input_value()


# --- photos come in ------------------------------------------------------------------------------------------------


def grab(tab, key: str) -> Callable[..., None]:
    """Take a slider's handle, which stands in the middle, in the mouse; returns what drags it to a share of the way."""
    handle = tab.locator(f"#edit-{key} input[type=range]")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()

    def drag(share: float, steps: int = 1) -> None:
        tab.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=steps)

    drag(0.5)
    tab.mouse.down()
    return drag


def encoded(photo: Image.Image, kind: str) -> tuple[str, bytes]:
    """The photo as a file of one kind: name and content."""
    buffer = io.BytesIO()
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to see it right
        photo.rotate(90).save(buffer, "JPEG", quality=95, exif=exif)
    elif kind == "alpha":
        photo.convert("RGBA").save(buffer, "PNG")
    elif kind == "16 bit":
        levels = photo.convert("L").convert("I").point(lambda level: level * 257)
        levels.convert("I;16").save(buffer, "PNG")
    elif kind == "heic":
        pillow_heif.from_pillow(photo).save(buffer, quality=90)
    else:
        mode = {"cmyk": "CMYK", "grey": "L"}.get(kind, "RGB")
        photo.convert(mode).save(buffer, {"png": "PNG", "webp": "WEBP"}.get(kind, "JPEG"), quality=95)
    suffix = {"png": "png", "webp": "webp", "heic": "heic", "alpha": "png", "16 bit": "png"}.get(kind, "jpg")
    return f"{kind}.{suffix}", buffer.getvalue()


def test_every_kind_of_photo_opens(tab, astronaut):
    sources = set()
    for kind in ("jpeg", "png", "webp", "heic", "rotated", "alpha", "cmyk", "grey", "16 bit"):
        name, content = encoded(astronaut, kind)
        upload(tab, {"name": name, "mimeType": "", "buffer": content})
        grey = kind in ("grey", "16 bit")
        expected = ImageOps.grayscale(astronaut).convert("RGB") if grey else astronaut
        assert difference(picture(tab, ORIGINAL), expected) < 6, kind
        assert picture(tab).size == astronaut.size
        sources.add(tab.locator(ORIGINAL).get_attribute("src"))
        tab.locator("#another").click()
        tab.wait_for_selector("#upload", state="visible")
        assert tab.locator(ORIGINAL + "[src]").count() == 0
    assert len(sources) == 9  # each was a picture of its own


def test_a_photo_can_be_dropped_and_pasted(tab, astronaut, photo_file):
    """Also HEIC, of which many browsers do not know that it is a picture."""
    heic = encoded(astronaut, "heic")[1]
    for way, content, kind in (
        ("drop", photo_file.read_bytes(), "image/png"),
        ("paste", photo_file.read_bytes(), "image/png"),
        ("drop", heic, ""),
        ("paste", heic, "application/octet-stream"),
    ):
        transfer = tab.evaluate_handle(
            """([content, kind]) => {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], kind === "image/png" ? "me.png" : "me.HEIC", { type: kind }));
                return transfer;
            }""",
            [base64.b64encode(content).decode(), kind],
        )
        if way == "drop":
            tab.dispatch_event("#upload button:has(input[type=file])", "drop", {"dataTransfer": transfer})
        else:
            tab.evaluate("data => window.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", transfer)
        tab.wait_for_selector("#stage-bar", state="visible")
        assert difference(picture(tab, ORIGINAL), astronaut) < (6 if content is heic else 3)
        tab.locator("#another").click()
        tab.wait_for_selector("#upload", state="visible")


def test_the_webcam_takes_a_photo(tab):
    tab.locator("#upload").get_by_label("Capture from camera").click()
    tab.locator("#upload").get_by_role("button", name=re.compile("webcam", re.I)).first.click()
    tab.wait_for_function("document.querySelector('#upload video')?.videoWidth > 0")
    tab.locator("#upload").get_by_label("capture photo").click()
    assert "No face" in tab.wait_for_selector("#status [role=alert]").inner_text()  # the test camera shows a pattern


def test_an_example_is_one_click_away(tab):
    tab.locator("#examples button").first.click()
    tab.wait_for_selector("#stage-bar", state="visible")
    assert picture(tab).size == (1024, 1024)
    assert not tab.locator("#welcome").is_visible()


def test_a_bad_photo_gets_a_message_and_another_try(tab, bad_files, photo_file):
    for name, said in (("text.jpg", "not a picture"), ("nobody.png", "No face")):
        tab.set_input_files("#upload input[type=file]", bad_files[name])
        tab.wait_for_selector(f"#status [role=alert]:has-text('{said}')")
        assert not tab.locator("#stage-bar").is_visible()
    upload(tab, photo_file)
    assert tab.locator("#status [role=alert]").count() == 0


def test_faces_are_picked_and_keep_their_edits(tab, pair_file):
    photo = Image.open(pair_file)
    crops = [FaceAligner().align_photo(photo, index) for index in (0, 1)]
    upload_face(tab, pair_file)
    faces = tab.locator("#faces button")
    assert faces.count() == 2
    assert faces.nth(0).get_attribute("aria-pressed") == "true"  # the largest
    set_slider(tab, "smile", "40")
    eventually(tab, like(close_up(photo, crops[0], StandIn().edit(crops[0].image, {"smile": 40}))))
    faces.nth(1).click()
    eventually(tab, like(crops[1].image))
    assert slider_value(tab, "smile") == "0"
    assert faces.nth(1).get_attribute("aria-pressed") == "true"
    set_slider(tab, "smile", "-40")
    tab.get_by_label("Whole photo").click()
    edited = [StandIn().edit(crop.image, {"smile": smile}) for crop, smile in zip(crops, (40, -40), strict=True)]
    both = drawn(photo, *zip(crops, edited, strict=True))
    eventually(tab, like(both, 2))
    faces.nth(0).click()
    eventually(tab, lambda _: slider_value(tab, "smile") == "40")
    tab.get_by_label("Face", exact=True).click()
    faces.nth(0).click()  # it is chosen already
    tab.wait_for_timeout(500)
    close = View.close_up(photo, crops[0], IMAGE_SIZE)
    eventually(tab, like(drawn(close, *zip(crops, edited, strict=True))))
    assert strings.READY in tab.locator("#status").inner_text()
    assert slider_value(tab, "smile") == "40"


# --- sliders -------------------------------------------------------------------------------------------------------


def test_a_drag_shows_its_end_and_no_queue(ready, render):
    drag = grab(ready, "smile")
    for step in range(30):
        drag(0.5 + 0.4 * step / 29)
    ready.mouse.up()
    value = int(slider_value(ready, "smile"))
    assert value > 60
    eventually(ready, like(render(smile=value)), seconds=5)  # 30 pictures one after the other would take longer
    ready.wait_for_timeout(600)
    assert like(render(smile=value))(picture(ready))


def test_the_keyboard_moves_sliders_and_the_line(ready, render):
    handle = ready.locator("#edit-age input[type=range]")
    handle.focus()
    for _ in range(40):
        handle.press("ArrowRight")
    eventually(ready, like(render(age=40)))
    assert slider_value(ready, "age") == "40"
    line = ready.get_by_label("Line between original and result")
    line.focus()
    line.press("ArrowRight")
    assert ready.locator(".viewer .frame").evaluate("frame => frame.style.getPropertyValue('--split')") == "17%"


def test_each_slider_and_all_sliders_reset(ready, render):
    set_slider(ready, "smile", "50")
    set_slider(ready, "age", "30")
    eventually(ready, like(render(smile=50, age=30)))
    ready.locator("#edit-smile .reset-button").click()
    eventually(ready, like(render(age=30)))
    ready.locator("#reset").click()
    eventually(ready, like(render()))
    assert (slider_value(ready, "smile"), slider_value(ready, "age")) == ("0", "0")
    assert strings.UNCHANGED in ready.locator("#summary").inner_text()


def test_undo_and_redo(ready, render):
    assert ready.locator("#undo").is_disabled()
    set_slider(ready, "smile", "50")
    eventually(ready, like(render(smile=50)))
    set_slider(ready, "age", "30")
    eventually(ready, like(render(smile=50, age=30)))
    ready.locator("#undo").click()
    eventually(ready, like(render(smile=50)))
    assert slider_value(ready, "age") == "0"
    ready.locator("#undo").click()
    eventually(ready, like(render()))
    ready.locator("#redo").click()
    eventually(ready, like(render(smile=50)))
    assert slider_value(ready, "smile") == "50"


def test_presets_set_the_sliders(ready, render):
    ready.get_by_role("button", name="Younger, smiling").click()
    eventually(ready, like(render(smile=60, age=-70)))
    assert slider_value(ready, "smile") == "60"
    assert "Smile +60" in ready.locator("#summary").inner_text()


def test_a_view_switched_at_once_keeps_the_preset(ready, edited, astronaut, aligned):
    """The switch used to carry the sliders as they stood before the preset."""
    ready.get_by_role("button", name="Big smile").click()
    ready.get_by_label("Whole photo").click()
    eventually(ready, like(drawn(astronaut, (aligned, edited(smile=100))), 3))
    assert slider_value(ready, "smile") == "100"
    assert "Smile +100" in ready.locator("#summary").inner_text()


def test_the_original_shows_while_a_button_is_held(ready):
    after, hold = ready.locator("#comparison img.after"), ready.locator(".viewer .hold")
    hold.hover()
    ready.mouse.down()
    assert after.evaluate("image => getComputedStyle(image).visibility") == "hidden"
    ready.mouse.up()
    assert after.evaluate("image => getComputedStyle(image).visibility") == "visible"
    hold.focus()
    ready.keyboard.down("Space")
    assert hold.get_attribute("aria-pressed") == "true"
    ready.keyboard.up("Space")
    assert hold.get_attribute("aria-pressed") == "false"


def test_nothing_jumps_when_pictures_arrive(tab, photo_file, render):
    empty = [tab.locator(place).bounding_box() for place in ("#stage-picture", "#edit-smile")]
    frame = tab.locator("#upload").bounding_box()
    upload_face(tab, photo_file)
    full = [tab.locator(place).bounding_box() for place in ("#stage-picture", "#edit-smile")]
    assert [(box["x"], box["y"]) for box in full] == [(box["x"], box["y"]) for box in empty]
    assert tab.locator(".viewer .frame").bounding_box() == pytest.approx(frame, abs=1)
    before = [tab.locator(place).bounding_box() for place in ("#comparison", "#edit-smile", "#stage-bar")]
    set_slider(tab, "smile", "50")
    eventually(tab, like(render(smile=50)))
    after = [tab.locator(place).bounding_box() for place in ("#comparison", "#edit-smile", "#stage-bar")]
    assert after == before


# --- sliders while a photo is read -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_page():
    """A page of its own, and the stand-in behind it."""
    editor = HeldStandIn()
    with launched(free_port(), lambda: editor) as address:
        wait_until(lambda: editor.inverted)  # it has warmed up
        yield address, editor


@pytest.fixture
def held(context, held_page):
    """A visit of that page, and the stand-in."""
    address, editor = held_page
    tab = context.new_page()
    visit(tab, address)
    yield tab, editor
    tab.close()


def begin(tab, photo: Path) -> None:
    """Choose a photo and wait until it is being read."""
    tab.set_input_files("#upload input[type=file]", photo)
    tab.wait_for_selector(f"#status .busy:has-text('{strings.INVERTING}')")


def hold_still(tab, wanted, **strengths: int) -> None:
    """The sliders stand so, the face becomes so, and both stay."""
    tab.wait_for_selector("#stage-bar", state="visible")
    see_face(tab)
    for _ in range(2):
        assert {key: slider_value(tab, key) for key in strengths} == {key: str(v) for key, v in strengths.items()}
        eventually(tab, wanted, seconds=10)
        tab.wait_for_timeout(500)


def test_sliders_moved_while_a_photo_is_read_stay_where_they_are(held, photo_file, render):
    tab, editor = held
    set_slider(tab, "gender", "10")
    with editor.held("invert"):
        begin(tab, photo_file)
        set_slider(tab, "smile", "40")
        handle = tab.locator("#edit-age input[type=range]")
        for _ in range(30):
            handle.press("ArrowRight")
        tab.wait_for_selector("#summary:has-text('Smile +40, Age +30')")
        assert strings.INVERTING in tab.locator("#status").inner_text()
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render(smile=40, age=30)), smile=40, age=30, gender=10)
    summary = tab.locator("#summary").inner_text()
    assert all(part in summary for part in ("Smile +40", "Age +30", "+10"))
    set_slider(tab, "smile", "50")  # and things go on as usual
    hold_still(tab, like(render(smile=50, age=30)), smile=50, age=30, gender=10)


def test_a_slider_moved_while_the_first_picture_is_made_stays_where_it_is(held, photo_file, render):
    tab, editor = held
    with editor.held("edit"):
        begin(tab, photo_file)
        wait_until(lambda: editor.waiting)
        set_slider(tab, "smile", "40")
        tab.wait_for_timeout(300)
        assert strings.INVERTING in tab.locator("#status").inner_text()
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render(smile=40)), smile=40)
    assert "Smile +40" in tab.locator("#summary").inner_text()


def test_a_slider_in_the_hand_does_not_jump_when_the_photo_is_ready(held, photo_file, render):
    tab, editor = held
    with editor.held("invert"):
        begin(tab, photo_file)
        drag = grab(tab, "smile")
        drag(0.7, steps=5)
        before = int(slider_value(tab, "smile"))
        assert before > 20
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render(smile=before)), smile=before)
    drag(0.9, steps=5)
    tab.mouse.up()
    after = int(slider_value(tab, "smile"))
    assert after > before
    hold_still(tab, like(render(smile=after)), smile=after)


def test_presets_and_settings_chosen_while_a_photo_is_read_count(held, photo_file, render, tmp_path):
    tab, editor = held
    tab.locator("#share button.label-wrap").click()
    with editor.held("invert"):
        begin(tab, photo_file)
        tab.get_by_role("button", name="Younger, smiling").click()
        tab.wait_for_function("document.querySelector('#edit-age input[type=number]').value == '-70'")  # at once
        set_slider(tab, "age", "30")
        tab.wait_for_selector("#summary:has-text('Smile +60, Age +30')")
        assert strings.INVERTING in tab.locator("#status").inner_text()
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render(smile=60, age=30)), smile=60, age=30)

    tab.locator("#another").click()
    tab.wait_for_selector("#upload", state="visible")
    (tmp_path / "settings.json").write_text(settings.to_json({"smile": -20, "age": 50}))
    with editor.held("invert"):
        begin(tab, photo_file)
        files = "#load-settings input[type=file], input[type=file][accept='.json']"
        tab.set_input_files(files, tmp_path / "settings.json")
        tab.wait_for_selector("#status .busy:has-text('Settings loaded: Smile -20, Age +50')")
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render(smile=-20, age=50)), smile=-20, age=50)

    tab.locator("#another").click()
    tab.wait_for_selector("#upload", state="visible")
    set_slider(tab, "smile", "80")
    with editor.held("invert"):
        begin(tab, photo_file)
        tab.locator("#reset").click()
        tab.wait_for_function("document.querySelector('#edit-smile input[type=number]').value == '0'")
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render()), smile=0)


def test_a_preset_just_before_the_photo_counts_while_others_are_served(held, context, held_page, photo_file, render):
    """It used to wait in line for its sliders, which the photo then did not know of."""
    tab, editor = held
    other = context.new_page()
    visit(other, held_page[0])
    with editor.held("invert"):
        begin(other, photo_file)
        tab.get_by_role("button", name="Big smile").click()
        tab.set_input_files("#upload input[type=file]", photo_file)
        tab.wait_for_selector(f"#status .busy:has-text('{strings.NEXT.split(',')[0]}')")
        set_slider(tab, "age", "30")
        tab.wait_for_selector("#summary:has-text('Smile +100, Age +30')")
    tab.wait_for_selector("#status .ready")
    hold_still(tab, like(render(smile=100, age=30)), smile=100, age=30)
    other.close()


def test_sliders_moved_while_another_face_is_read_are_that_faces(held, pair_file):
    tab, editor = held
    photo = Image.open(pair_file)
    crops = [FaceAligner().align_photo(photo, index) for index in (0, 1)]

    def shown(index: int, *edits: tuple[int, dict[str, float]]) -> Callable[[Image.Image], bool]:
        edited = [(crops[face], StandIn().edit(crops[face].image, strengths)) for face, strengths in edits]
        return like(drawn(View.close_up(photo, crops[index], IMAGE_SIZE), *edited))

    upload_face(tab, pair_file)
    set_slider(tab, "smile", "40")
    eventually(tab, shown(0, (0, {"smile": 40})))
    faces = tab.locator("#faces button")
    with editor.held("invert"):
        faces.nth(1).click()
        tab.wait_for_function("document.querySelector('#edit-smile input[type=number]').value == '0'")
        assert faces.nth(1).get_attribute("aria-pressed") == "true"
        eventually(tab, shown(1))
        set_slider(tab, "age", "30")
        tab.wait_for_timeout(300)
        set_slider(tab, "smile", "-20")
    both = (0, {"smile": 40}), (1, {"smile": -20, "age": 30})
    hold_still(tab, shown(1, *both), smile=-20, age=30)
    faces.nth(0).click()
    tab.wait_for_function("document.querySelector('#edit-smile input[type=number]').value == '40'")
    hold_still(tab, shown(0, *both), smile=40, age=0)


# --- finding a slider ------------------------------------------------------------------------------------------------


def test_sliders_are_found_by_words(ready, render):
    box, sliders = ready.get_by_label("Find an edit"), ready.locator(".edit-slider:visible")
    shown = sliders.count()
    box.fill("happy")  # not the name of the slider, but what people call it
    ready.wait_for_selector("#find:has-text('1 of 25')")
    assert [slider.get_attribute("id") for slider in sliders.all()] == ["edit-smile"]
    box.fill("12 EXTRA")
    ready.wait_for_selector("#edit-extra12", state="visible")  # its fold was closed
    assert sliders.count() == 1
    box.press("Enter")
    ready.wait_for_function("document.activeElement.closest('.edit-slider')?.id === 'edit-extra12'")
    ready.keyboard.press("ArrowRight")
    ready.wait_for_selector("#summary:has-text('Extra 12 +1')")
    box.fill("17")
    ready.wait_for_selector("#edit-extra17", state="visible")
    assert axe_flaws(ready) == []
    box.fill("zebra")
    assert "No edit found" in ready.wait_for_selector("#find .said:not(:empty)").inner_text()
    assert sliders.count() == 0
    box.press("Escape")
    ready.wait_for_selector("#edit-smile", state="visible")
    assert box.input_value() == ""
    # The fold in which a slider was moved stays open, the others close again.
    assert sliders.count() == shown + 5
    assert ready.locator("#edit-extra12").is_visible()


# --- edits of one's own ----------------------------------------------------------------------------------------------


def test_a_direction_file_becomes_a_slider_for_its_visitor(ready, browser, url, render, astronaut, aligned, tmp_path):
    np.save(tmp_path / "Curly hair.npy", np.eye(1, 512)[0])
    (tmp_path / "text.npy").write_text("no numbers")
    with (tmp_path / "huge.npy").open("wb") as file:
        file.truncate(2**30)
    files = ready.locator("#own input[type=file], input[type=file][accept*='.npy']")
    ready.locator("#own button.label-wrap").click()
    files.set_input_files(tmp_path / "text.npy")
    ready.wait_for_selector("#status [role=alert]:has-text('text.npy is damaged or is no .npy file')")
    files.set_input_files(tmp_path / "huge.npy")
    ready.wait_for_selector(".toast-body:has-text('exceed the maximum allowed size')")
    ready.locator(".toast-close").first.click()
    files.set_input_files(tmp_path / "Curly hair.npy")
    ready.wait_for_selector("#status .ready:has-text('Curly hair')")
    ready.locator("#own-0 input[type=number]").fill("40")
    mirrored = close_up(astronaut, aligned, ImageOps.mirror(aligned.image))
    eventually(ready, like(mirrored))
    assert "Curly hair +40" in ready.locator("#summary").inner_text()
    assert axe_flaws(ready) == []
    ready.locator("#animate button.label-wrap").click()
    ready.locator("#animate-edit input").click()
    ready.get_by_role("option", name="Curly hair").wait_for()
    ready.keyboard.press("Escape")
    ready.get_by_label("Find an edit").fill("curly")
    ready.locator("#edit-smile").wait_for(state="hidden")
    assert ready.locator("#own-0").is_visible()
    ready.get_by_label("Find an edit").fill("")
    ready.get_by_role("tab", name="Compare").click()
    ready.locator("#compare-edit input").click()
    ready.get_by_role("option", name="Curly hair").wait_for()
    ready.keyboard.press("Escape")
    ready.get_by_role("tab", name="Edit").click()
    with browser.new_context() as other_context:
        other = other_context.new_page()
        visit(other, url)
        other.locator("#own button.label-wrap").click()
        other.wait_for_selector("#own-file")
        assert not other.locator("#own-0").is_visible()
    ready.locator(".own-slot .remove").first.click()
    eventually(ready, like(render()))
    ready.locator("#own-0").wait_for(state="hidden")


def test_an_edit_can_be_described(ready, render, astronaut, aligned):
    ready.locator("#own button.label-wrap").click()
    assert "downloads the network CLIP" in ready.locator("#describe").inner_text()
    ready.locator("#describe-target textarea, #describe-target input").fill("a face with freckles")
    ready.locator("#describe-go").click()
    eventually(ready, like(close_up(astronaut, aligned, ImageOps.mirror(aligned.image))))
    assert ready.locator("#own-0 input[type=number]").input_value() == "60"
    assert "a face with freckles +60" in ready.locator("#summary").inner_text()
    ready.locator("#undo").click()
    eventually(ready, like(render()))


# --- results -------------------------------------------------------------------------------------------------------


def test_downloads_open_and_say_that_they_are_edited(ready, render, tmp_path):
    set_slider(ready, "smile", "60")
    eventually(ready, like(render(smile=60)))
    assert ready.locator("#download").inner_text() == "Download (1,024 x 1,024)"
    for choice, kind, suffix in (("PNG", "PNG", "png"), ("JPEG", "JPEG", "jpg"), ("WebP", "WEBP", "webp")):
        ready.locator("#format").get_by_label(choice).click()
        with ready.expect_download() as download:
            ready.locator("#download").click()
        assert download.value.suggested_filename == f"astronaut-smile+60.{suffix}"
        download.value.save_as(tmp_path / "face")
        with Image.open(tmp_path / "face") as face:
            assert (face.format, face.size) == (kind, (1024, 1024))
            assert difference(face.convert("RGB"), render(smile=60)) < 3
        assert SOURCE_TYPE.encode() in (tmp_path / "face").read_bytes()


def test_the_whole_photo_is_seen_first_and_comes_back(opened, edited, astronaut, aligned, tmp_path):
    expected = drawn(astronaut, (aligned, edited(smile=70)))
    eventually(opened, like(astronaut, 3))
    set_slider(opened, "smile", "70")
    eventually(opened, lambda shown: difference(shown, expected, aligned.face.box) < 3)
    assert picture(opened, ORIGINAL).size == picture(opened).size
    assert opened.locator("#download").inner_text() == "Download (512 x 512)"
    with opened.expect_download() as download:
        opened.locator("#download").click()
    download.value.save_as(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as photo:
        assert photo.size == astronaut.size
        assert difference(photo, expected) < 0.1


def test_the_visible_mark(ready, render, tmp_path):
    ready.locator("#mark").get_by_role("checkbox").check()
    with ready.expect_download() as download:
        ready.locator("#download").click()
    download.value.save_as(tmp_path / "face.png")
    with Image.open(tmp_path / "face.png") as face:
        assert difference(face, render(), (0, 0, 1024, 900)) == 0
        assert difference(face, render(), (850, 950, 1024, 1024)) > 5


def test_an_animation_of_an_edit(ready, render, tmp_path):
    ready.locator("#animate button.label-wrap").click()
    for choice, shown in (("GIF", "img"), ("WebP", "img"), ("MP4", "video")):
        ready.locator("#animate-format").get_by_label(choice).click()
        ready.locator("#animate-go").click()
        ready.wait_for_selector(f"#animation {shown}[src$='.{choice.lower()}']")
        with ready.expect_download() as download:
            ready.locator("#animation-file").click()
        assert download.value.suggested_filename == f"astronaut-smile-sweep.{choice.lower()}"
        download.value.save_as(tmp_path / choice)
        if shown == "img":
            with Image.open(tmp_path / choice) as sweep:
                assert (sweep.format, sweep.size, sweep.n_frames) == (choice.upper(), (512, 512), 16)
    # The browser plays the video; its first picture has the colours of the slider's lower end.
    ready.wait_for_function("document.querySelector('#animation video').readyState >= 2")
    colours, seconds = ready.evaluate(
        """async () => {
            const video = document.querySelector("#animation video");
            video.pause();
            video.currentTime = 0;
            await new Promise((done) => (video.onseeked = done));
            const canvas = Object.assign(document.createElement("canvas"), { width: 512, height: 512 });
            const paper = canvas.getContext("2d");
            paper.drawImage(video, 0, 0);
            const { data } = paper.getImageData(0, 0, 512, 512);
            const sums = [0, 0, 0];
            data.forEach((level, index) => { if (index % 4 < 3) sums[index % 4] += level / 512 / 512; });
            return [sums, video.duration];
        }"""
    )
    expected = ImageStat.Stat(render(smile=-100)).mean
    assert all(abs(one - other) < 3 for one, other in zip(colours, expected, strict=True))
    assert 6 < seconds < 7


def test_settings_travel_as_a_file_and_as_a_link(ready, url, render, tmp_path):
    set_slider(ready, "smile", "60")
    set_slider(ready, "age", "30")
    eventually(ready, like(render(smile=60, age=30)))
    ready.locator("#share button.label-wrap").click()
    with ready.expect_download() as download:
        ready.locator("#save-settings").click()
    assert download.value.suggested_filename == "portrait-settings.json"
    download.value.save_as(tmp_path / "settings.json")
    assert settings.from_json((tmp_path / "settings.json").read_text(), many_edits())[0] == {"smile": 60, "age": 30}

    ready.locator("#copy-link").click()
    ready.wait_for_function("document.querySelector('#link textarea, #link input')?.value.startsWith('http')")
    link = ready.locator("#link textarea, #link input").input_value()
    assert link == f"{url}/?smile=60&age=30"

    ready.locator("#reset").click()
    eventually(ready, like(render()))
    ready.set_input_files(
        "#load-settings input[type=file], input[type=file][accept='.json']", tmp_path / "settings.json"
    )
    eventually(ready, like(render(smile=60, age=30)))
    assert "Smile +60, Age +30" in ready.locator("#status").inner_text()

    ready.goto(link)
    ready.wait_for_function("document.querySelector('#edit-smile input[type=number]')?.value == '60'")
    upload_face(ready, tmp_path_photo(tmp_path))
    eventually(ready, like(render(smile=60, age=30)))
    assert (slider_value(ready, "smile"), slider_value(ready, "age")) == ("60", "30")


def tmp_path_photo(folder: Path) -> Path:
    from skimage import data

    Image.fromarray(data.astronaut()).save(folder / "again.png")
    return folder / "again.png"


def test_sliders_in_a_closed_fold_are_set_all_the_same(tab, url, render, photo_file):
    tab.goto(f"{url}/?extra7=55&smile=20")
    tab.wait_for_function("document.querySelector('#edit-smile input[type=number]')?.value == '20'")
    assert tab.locator("#edit-extra7").count() == 0
    upload_face(tab, photo_file)
    assert "Smile +20, Extra 7 +55" in tab.locator("#summary").inner_text()
    tab.get_by_role("button", name="More 1").click()
    tab.wait_for_selector("#edit-extra7")
    assert slider_value(tab, "extra7") == "55"
    set_slider(tab, "extra7", "60")
    tab.wait_for_selector("#summary:has-text('Extra 7 +60')")
    eventually(tab, like(render(smile=20)))
    tab.locator("#reset").click()
    eventually(tab, lambda _: slider_value(tab, "extra7") == "0")


def test_a_file_that_holds_no_settings_is_explained(tab, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"answer": 42}))
    tab.locator("#share button.label-wrap").click()
    tab.set_input_files("#load-settings input[type=file], input[type=file][accept='.json']", tmp_path / "other.json")
    assert "not a settings file" in tab.wait_for_selector("#status [role=alert]").inner_text()


# --- visits --------------------------------------------------------------------------------------------------------


def test_two_browsers_stay_apart(ready, browser, url, render, astronaut, tmp_path):
    ImageOps.mirror(astronaut).save(tmp_path / "mirrored.png")
    with browser.new_context() as other_context:
        other = other_context.new_page()
        visit(other, url)
        upload_face(other, tmp_path / "mirrored.png")
        set_slider(other, "age", "50")
        set_slider(ready, "smile", "30")
        eventually(ready, like(render(smile=30)))
        mirrored = FaceAligner().align_photo(ImageOps.mirror(astronaut))
        older = StandIn().edit(mirrored.image, {"age": 50})
        eventually(other, like(close_up(ImageOps.mirror(astronaut), mirrored, older)))
        address = other.locator(ORIGINAL).get_attribute("src")
        other.close()
    ready.locator("#reset").click()
    eventually(ready, like(render()))
    deadline = 20_000  # the files of a visitor who left go after a little patience
    while fetch(ready, address).ok:
        deadline -= 500
        assert deadline > 0
        ready.wait_for_timeout(500)


@pytest.fixture(scope="module")
def quiet_page(tmp_path_factory):
    """Address of a page that nobody else visits, and its folder."""
    folder = tmp_path_factory.mktemp("quiet")
    with served(folder, [SERVER]) as address:
        yield address, folder


def test_nothing_of_a_visit_stays_on_disk(browser, quiet_page, photo_file, tmp_path):
    """Uploads of every kind: a photo to edit, photos for the two lists, an edit of one's own."""
    url, page_folder = quiet_page
    np.save(tmp_path / "curly.npy", np.eye(1, 512)[0])
    with browser.new_context() as context:
        tab = context.new_page()
        visit(tab, url)
        upload(tab, photo_file)
        wait_until(lambda: not any(path.name == photo_file.name for path in files_in(page_folder)))  # it was read
        assert files_in(page_folder) != []
        tab.locator("#own button.label-wrap").click()
        tab.set_input_files("#own input[type=file], input[type=file][accept*='.npy']", tmp_path / "curly.npy")
        tab.wait_for_selector("#status .ready:has-text('curly')")
        for name in ("batch", "compare"):
            tab.get_by_role("tab", name=name.capitalize()).click()
            tab.set_input_files(f"#{name}-files input[type=file]", photo_file)
            tab.wait_for_selector(f"#{name}-files .file-preview")
        tab.get_by_role("tab", name="Batch").click()
        tab.locator("#batch-start").click()
        tab.wait_for_selector("#batch-result", state="visible")
        wait_until(lambda: not any(path.name == "curly.npy" for path in files_in(page_folder)))  # it was read
        assert any(path.name == photo_file.name for path in files_in(page_folder))
    wait_until(lambda: files_in(page_folder) == [], 30)


def test_a_page_that_is_closed_early_leaves_nothing(browser, quiet_page, photo_file):
    url, page_folder = quiet_page
    with browser.new_context() as busy_context, browser.new_context() as context:
        busy, tab = busy_context.new_page(), context.new_page()
        visit(tab, url)
        visit(busy, f"{url}/?extra19=100")  # five seconds for each picture
        busy.wait_for_selector(f"#status:has-text('{strings.WAITING}')")  # the sliders are set
        busy.set_input_files("#upload input[type=file]", photo_file)
        busy.wait_for_selector(f"#status .busy:has-text('{strings.INVERTING}')")
        tab.set_input_files("#upload input[type=file]", photo_file)
        tab.wait_for_selector(f"#status .busy:has-text('{strings.NEXT.split(',')[0]}')")
        tab.close()
        busy.close()
    wait_until(lambda: files_in(page_folder) == [], 30)


def test_who_waits_reads_for_whom(ready, browser, url, photo_file, render):
    set_slider(ready, "age", "30")  # so that the folded slider below is the only thing that differs
    eventually(ready, like(render(age=30)))
    ready.get_by_label("Find an edit").fill("extra 19")
    ready.wait_for_selector("#edit-extra19", state="visible")
    with browser.new_context() as other_context:
        other = other_context.new_page()
        visit(other, url)
        set_slider(ready, "extra19", "60")  # takes three seconds
        ready.wait_for_timeout(200)
        other.set_input_files("#upload input[type=file]", photo_file)
        other.wait_for_selector(f"#status .busy:has-text('{strings.NEXT.split(',')[0]}')")
        other.wait_for_selector("#status .ready:has-text('Ready')")
        see_face(other)
        eventually(other, like(render()))
        other.close()
    eventually(ready, like(render(age=30)))


def test_a_new_photo_starts_over(ready, photo_file, render):
    set_slider(ready, "smile", "50")
    eventually(ready, like(render(smile=50)))
    ready.locator("#another").click()
    ready.wait_for_selector("#upload", state="visible")
    assert ready.locator("#welcome").is_visible()
    upload_face(ready, photo_file)
    eventually(ready, like(render()))
    assert slider_value(ready, "smile") == "0"


def test_a_restarted_server_asks_for_the_photo_again(context, photo_file):
    tab = context.new_page()
    port = free_port()
    with launched(port) as address:
        visit(tab, address)
        upload(tab, photo_file)
        for name in ("batch", "compare"):
            tab.get_by_role("tab", name=name.capitalize()).click()
            tab.set_input_files(f"#{name}-files input[type=file]", photo_file)
            tab.wait_for_selector(f"#{name}-files .file-preview")
        tab.get_by_role("tab", name="Edit").click()
    with launched(port):
        tab.wait_for_timeout(1500)
        if not tab.locator("#upload").is_visible():
            set_slider(tab, "smile", "50")
        said = tab.wait_for_selector("#status .note.error").inner_text()
        assert "upload the photo again" in said
        for name in ("batch", "compare"):
            tab.get_by_role("tab", name=name.capitalize()).click()
            tab.locator(f"#{name}-start").click()
            tab.wait_for_selector(f"#{name}-status [role=alert]:has-text('upload it again')")
        tab.get_by_role("tab", name="Edit").click()
        upload(tab, photo_file)
        tab.close()


# --- other tabs ----------------------------------------------------------------------------------------------------


def test_a_batch_goes_through_and_lists_what_failed(tab, photo_file, bad_files, astronaut, tmp_path):
    set_slider(tab, "smile", "40")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(photo_file, "trip/me.png")
        archive.write(bad_files["nobody.png"], "trip/nobody.png")
        archive.writestr("trip/notes.txt", "not a photo")
    tab.get_by_role("tab", name="Batch").click()
    tab.wait_for_selector("#batch-settings:has-text('Smile +40')")
    tab.set_input_files("#batch-files input[type=file]", tmp_path / "photos.zip")
    tab.wait_for_selector("#batch-files .file-preview")
    tab.locator("#batch-start").click()
    tab.wait_for_selector("#batch-result", state="visible")
    said = tab.locator("#batch-status").inner_text()
    assert "1 of 2 photos edited" in said
    assert "nobody.png: No face found" in said
    with tab.expect_download() as download:
        tab.locator("#batch-result").click()
    download.value.save_as(tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == ["not-edited.txt", "trip/me-smile+40.png"]
        with archive.open("trip/me-smile+40.png") as file, Image.open(file) as result:
            assert result.size == astronaut.size


def test_a_folder_can_be_chosen(tab, photo_file, tmp_path):
    folder = tmp_path / "holiday"
    (folder / "day one").mkdir(parents=True)
    (folder / "day one" / "me.png").write_bytes(photo_file.read_bytes())
    (folder / "notes.txt").write_text("no photo")
    tab.get_by_role("tab", name="Batch").click()
    tab.wait_for_selector("#batch-folder")
    with tab.expect_file_chooser() as chooser:
        tab.locator("#batch-folder").click()
    chooser.value.set_files(folder)
    tab.wait_for_selector("#batch-files .file-preview")
    assert "All sliders are at 0" in tab.locator("#batch-settings").inner_text()
    tab.locator("#batch-start").click()
    tab.wait_for_selector("#batch-result", state="visible")
    assert "1 of 1 photos edited" in tab.locator("#batch-status").inner_text()
    assert axe_flaws(tab) == []


def test_a_batch_can_be_stopped_and_holds_nobody_up(tab, url, photo_file, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for index in range(60):
            archive.write(photo_file, f"{index}.png")
    tab.get_by_role("tab", name="Batch").click()
    tab.set_input_files("#batch-files input[type=file]", tmp_path / "photos.zip")
    tab.wait_for_selector("#batch-files .file-preview")
    tab.locator("#batch-start").click()
    tab.wait_for_selector("#batch-stop:not([disabled])")
    other = tab.context.new_page()
    visit(other, url)
    upload(other, photo_file)
    other.close()
    tab.locator("#batch-stop").click()
    said = tab.wait_for_selector("#batch-status:has-text('Stopped')").inner_text()
    edited = int(re.search(r"(\d+) of 60", said).group(1))
    assert 1 <= edited < 60
    assert tab.locator("#batch-start").is_enabled()
    with tab.expect_download() as download:  # what was finished is not lost
        tab.locator("#batch-result").click()
    download.value.save_as(tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert len(archive.namelist()) == edited


def test_a_batch_without_photos_says_so(tab):
    tab.get_by_role("tab", name="Batch").click()
    tab.locator("#batch-start").click()
    assert strings.BATCH_EMPTY in tab.wait_for_selector("#batch-status [role=alert]").inner_text()


# --- reach ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, url, pair_file, bad_files, scheme, width):
    """Each tab: empty, with an error, and with all that can be on it: several faces, open folds, files, failures."""
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}) as context:
        tab = context.new_page()
        visit(tab, url)
        tab.set_input_files("#upload input[type=file]", bad_files["nobody.png"])
        tab.wait_for_selector("#status [role=alert]")
        assert axe_flaws(tab) == []
        upload(tab, pair_file)
        closed = "#side button.label-wrap:not(.open), #about button.label-wrap:not(.open)"
        tab.eval_on_selector_all(closed, "folds => folds.forEach((fold) => fold.click())")
        tab.wait_for_selector("#copy-link", state="visible")
        tab.locator("#copy-link").click()
        tab.wait_for_selector("#link", state="visible")
        assert axe_flaws(tab) == []
        tab.get_by_role("tab", name="Batch").click()
        tab.locator("#batch-start").click()
        tab.wait_for_selector("#batch-status [role=alert]")
        assert axe_flaws(tab) == []
        tab.set_input_files("#batch-files input[type=file]", [pair_file, bad_files["text.jpg"]])
        tab.wait_for_selector("#batch-files .file-preview")
        tab.locator("#batch-start").click()
        tab.wait_for_selector("#batch-result", state="visible")
        assert axe_flaws(tab) == []
        tab.get_by_role("tab", name="Compare").click()
        tab.set_input_files("#compare-files input[type=file]", bad_files["text.jpg"])
        tab.wait_for_selector("#compare-files .file-preview")
        tab.locator("#compare-start").click()
        tab.wait_for_selector("#compare-status [role=alert]")
        assert axe_flaws(tab) == []


def test_the_page_obeys_its_policy_and_no_other_site_frames_it(browser, url, photo_file, tmp_path):
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    upload(page, photo_file)
    set_slider(page, "smile", "50")
    page.wait_for_selector("#status .ready")
    for name in ("Batch", "Compare", "Edit"):
        page.get_by_role("tab", name=name).click()
    page.locator("#download").click()
    page.wait_for_timeout(500)
    assert [line for line in said if "Content Security Policy" in line] == []
    assert [place for place in asked if not place.startswith((url, "data:", "blob:"))] == []
    page.close()
    other = browser.new_page()
    other.set_content(f'<iframe src="{url}"></iframe>')
    other.wait_for_timeout(1500)
    assert not other.frames[1].locator("#head").count()
    other.close()


def test_light_and_dark(browser, url):
    with browser.new_context(color_scheme="dark") as context:
        tab = context.new_page()
        visit(tab, url)

        def background() -> int:
            colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            return sum(map(int, re.findall(r"\d+", colour)[:3]))

        assert background() < 100
        tab.get_by_role("button", name="Light or dark").click()
        assert background() > 600
        visit(tab, url)
        assert background() > 600  # the choice lasts


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def box_of(tab, place: str) -> dict[str, float]:
    return tab.locator(place).bounding_box()


def test_a_thumb_finds_the_ways_to_bring_a_photo(browser, url):
    with browser.new_context(**PHONE) as context:
        tab = context.new_page()
        visit(tab, url)
        ways = tab.locator("#upload .source-selection button")
        assert ways.count() == 3
        assert all(min(way.bounding_box()["width"], way.bounding_box()["height"]) >= 40 for way in ways.all())
        words_shown = ways.evaluate_all("ways => ways.map((way) => getComputedStyle(way, '::after').content)")
        assert words_shown == ['"File"', '"Camera"', '"Paste"']


def test_undo_stays_in_sight_on_a_phone(browser, url, photo_file, render):
    with browser.new_context(**PHONE) as context:
        tab = context.new_page()
        visit(tab, url)
        upload_face(tab, photo_file)
        tab.locator("#edit-gender").scroll_into_view_if_needed()
        tab.evaluate("window.scrollBy(0, 200)")
        set_slider(tab, "smile", "50")
        eventually(tab, like(render(smile=50)))
        picture_box, head = box_of(tab, "#stage-picture"), box_of(tab, "#controls-head")
        assert picture_box["y"] == pytest.approx(0, abs=1)
        assert head["y"] == pytest.approx(picture_box["height"], abs=1)  # right below the picture, over the sliders
        assert box_of(tab, "#undo")["height"] >= 40
        scrolled = tab.evaluate("window.scrollY")
        tab.locator("#undo").tap()
        eventually(tab, like(render()))
        assert tab.evaluate("window.scrollY") == scrolled > 200


def test_what_is_said_takes_two_lines_on_a_phone_and_leaves_no_gap(browser, url, pair_file, bad_files):
    with browser.new_context(**PHONE) as context:
        tab = context.new_page()
        visit(tab, url)
        place = box_of(tab, "#status")
        tab.set_input_files("#upload input[type=file]", bad_files["text.jpg"])
        tab.wait_for_selector("#status [role=alert]")
        assert box_of(tab, "#status .error")["y"] == pytest.approx(place["y"], abs=1)
        assert box_of(tab, "#status")["height"] == pytest.approx(box_of(tab, "#status .error")["height"], abs=5)
        upload(tab, pair_file)
        assert "2 faces found" in tab.locator("#status").inner_text()
        assert box_of(tab, "#status") == pytest.approx(place, abs=1)
        tab.get_by_label("Face", exact=True).tap()
        tab.wait_for_selector(f"#status:has-text('{strings.READY}')")
        assert box_of(tab, "#status") == pytest.approx(place, abs=1)


def test_lists_and_folds_speak_plainly(tab):
    closed = tab.locator("#about button.label-wrap .icon").first
    assert closed.evaluate("icon => getComputedStyle(icon).transform") == "none"  # it points down
    for name in ("batch", "compare"):
        tab.get_by_role("tab", name=name.capitalize()).click()
        text = tab.locator(f"#{name}-files [data-testid=upload-text]")
        shown = text.evaluate("text => [getComputedStyle(text).fontSize, getComputedStyle(text, '::after').content]")
        assert shown[0] == "0px"
        assert "Drop photos" in shown[1]
        assert tab.locator(f"#{name}-start").bounding_box()["width"] < 200


def test_the_page_fits_a_phone(browser, url, photo_file, tmp_path):
    with browser.new_context(**PHONE) as context:
        tab = context.new_page()
        visit(tab, url)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        upload(tab, photo_file)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.get_by_label("Find an edit").fill("masculine")
        tab.locator("#edit-smile").wait_for(state="hidden")
        tab.get_by_label("Find an edit").press("Enter")
        slider = tab.locator("#edit-gender")
        box = tab.locator("#comparison").bounding_box()
        assert box["y"] >= -1  # the picture stays in sight
        assert box["y"] + box["height"] < slider.bounding_box()["y"] + 1
        (tmp_path / "other.json").write_text("{}")
        tab.locator("#share button.label-wrap").click()
        tab.set_input_files("#load-settings input[type=file], input[accept='.json']", tmp_path / "other.json")
        message = tab.wait_for_selector("#status .error").bounding_box()  # in sight, wherever the page is scrolled to
        assert 400 < message["y"] < 844 - message["height"]
        for name in ("Batch", "Compare"):
            tab.get_by_role("tab", name=name).click()
            tab.wait_for_selector(f"#{name.lower()}", state="visible")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_lying_photo_is_shown_upright_and_can_be_turned(tab, astronaut, tmp_path):
    astronaut.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png")
    upload(tab, tmp_path / "lying.png")
    tab.wait_for_selector(f"#notes:has-text('{TURNED[1]}')")
    set_slider(tab, "smile", "60")
    tab.wait_for_selector("#summary:has-text('Smile +60')")
    tab.locator("#turn").click()
    tab.wait_for_selector(f"#notes:has-text('{TURNED[3]}')")  # it shows its face one way up only
    tab.wait_for_selector("#status .ready")
    assert "Smile +60" in tab.locator("#summary").inner_text()
    tab.locator("#another").click()
    tab.wait_for_selector("#notes", state="hidden")
