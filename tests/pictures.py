"""Remakes the pictures of the README, with the weights as they are: `make pictures`.

Every face in them is made up by the generator, or NASA's portrait of Eileen Collins, which is in the public domain.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from serving import chromium, served, set_slider, upload
from skimage import data

from gra_core.alignment import FaceAligner
from gra_core.constants import ASSETS_DIR
from gra_core.editor import PortraitEditor
from gra_core.export import save_sweep, sweep_values
from gra_core.images import load_image
from gra_core.ui.examples import example_files

RESULTS = ({}, {"smile": 60}, {"age": 60}, {"yaw": 60}, {"glasses": 60})
"""Columns of the picture of results, after the photo and its low-rate code."""

RESULT_SIDE, SWEEP_SIDE, SWEEP_STEPS = 256, 320, 9
COMPARE_WIDTH = 1200


def draw_results(editor: PortraitEditor, faces: list[Image.Image]) -> Image.Image:
    """A row for each face: the photo, its code alone, no edit, and RESULTS' edits."""
    sheet = Image.new("RGB", (RESULT_SIDE * (2 + len(RESULTS)), RESULT_SIDE * len(faces)))
    for row, face in enumerate(faces):
        inversion = editor.invert(face)
        pictures = [face, editor.low_rate(inversion), *(editor.edit(inversion, strengths) for strengths in RESULTS)]
        for column, picture in enumerate(pictures):
            place = (RESULT_SIDE * column, RESULT_SIDE * row)
            sheet.paste(picture.resize((RESULT_SIDE, RESULT_SIDE), Image.Resampling.LANCZOS), place)
    return sheet


def draw_sweep(editor: PortraitEditor, face: Image.Image, path: Path) -> None:
    """The smile of a face from end to end."""
    inversion = editor.invert(face)
    values = sweep_values(editor.edits["smile"], SWEEP_STEPS)
    frames = [editor.edit(inversion, {"smile": value}) for value in values]
    save_sweep([frame.resize((SWEEP_SIDE, SWEEP_SIDE), Image.Resampling.LANCZOS) for frame in frames], path, "Smile")


def photograph_pages(url: str, photo: Path, folder: Path) -> None:
    """The page on a wide screen and on a phone, and the contact sheet of a comparison, as PNG files in `folder`."""
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(120_000)
        tab.goto(url)
        upload(tab, example_files()[1])
        set_slider(tab, "smile", "55")
        set_slider(tab, "age", "-25")
        tab.wait_for_selector("#summary:has-text('Smile +55, Age -25')")
        tab.wait_for_timeout(2000)
        tab.evaluate("document.activeElement.blur()")
        tab.screenshot(path=folder / "page.png")

        tab.get_by_role("tab", name="Compare").click()
        tab.set_input_files("#compare-files input[type=file]", example_files()[2])
        tab.wait_for_selector("#compare-files .file-preview")
        tab.locator("#compare-edit input").click()
        tab.get_by_role("option", name="Turn head").click()
        tab.locator("#compare-start").click()
        tab.wait_for_selector("#compare-sheet", state="visible")
        with tab.expect_download() as download:
            tab.locator("#compare-sheet").click()
        download.value.save_as(folder / "compare.png")

        phone = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
        phone.set_default_timeout(120_000)
        phone.goto(url)
        upload(phone, photo)
        phone.get_by_role("button", name="Older").tap()
        phone.wait_for_selector("#summary:has-text('Age +100')")
        phone.wait_for_timeout(2000)
        phone.locator("#edit-smile").scroll_into_view_if_needed()
        phone.locator(".divider").fill("50")
        phone.evaluate("document.activeElement.blur()")
        phone.screenshot(path=folder / "phone.png")


def main() -> None:
    """Write all pictures to the folder of assets."""
    editor, astronaut = PortraitEditor.from_pretrained(), Image.fromarray(data.astronaut())
    made_up = [load_image(path) for path in example_files()]
    faces = [*made_up[:2], FaceAligner().align_photo(astronaut).image]
    draw_results(editor, faces).save(ASSETS_DIR / "results.webp", quality=85, method=6)
    draw_sweep(editor, made_up[1], ASSETS_DIR / "sweep.webp")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        astronaut.save(folder / "astronaut.png")
        with served(folder, ["app.py"]) as url:
            photograph_pages(url, folder / "astronaut.png", folder)
        for shot in ("page", "phone", "compare"):
            picture = Image.open(folder / f"{shot}.png").convert("RGB")
            if shot == "compare":
                size = (COMPARE_WIDTH, round(picture.height * COMPARE_WIDTH / picture.width))
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            picture.save(ASSETS_DIR / f"{shot}.webp", quality=85, method=6)
    for path in sorted(ASSETS_DIR.glob("*.webp")):
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    sys.exit(main())
