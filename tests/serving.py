"""The page for tests: a server in a process of its own, a browser, and a stand-in for the model.

Run as a program it serves the page with the stand-in, which is quick and whose results are easy to foretell.
"""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from torch import nn

from gra_core.alignment import AlignedFace, Face
from gra_core.compositing import EditOutput, View, compose
from gra_core.constants import IMAGE_SIZE, PROJECT_ROOT
from gra_core.directions.registry import EditDirection, edit_offset, load_directions
from gra_core.errors import GRAError
from gra_core.images import Photo

SERVER = str(Path(__file__))
"""The program that serves the page with the stand-in."""

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


GROUPS = ("Face", "More 0", "More 1", "More 2", "More 3")


def many_edits() -> dict[str, EditDirection]:
    """Five real edits and twenty made-up ones in four groups: as many as the page has to keep in order."""
    real = load_directions()
    edits = {key: real[key] for key in ("smile", "age", "yaw", "gender", "glasses")}
    edits |= {key: replace(edit, group="Face") for key, edit in edits.items()}
    for index in range(20):
        words = {"key": f"extra{index}", "label": f"Extra {index}", "group": GROUPS[1 + index // 5]}
        edits[words["key"]] = replace(edits["smile"], **words, minimum=-100.0 * (index % 2))
    return edits


STILL = np.zeros((16, 16, 2), np.float32), np.ones((16, 16), np.float32)
"""Nothing moves, and all detail holds."""


class StandIn:
    """In the editor's place: smile makes the picture brighter, age takes colour out, edits of one's own mirror it.

    Extra 19 takes its time: a twentieth of a second for each unit.
    """

    average_code = np.zeros(512, np.float32)
    generator = nn.Identity()

    def __init__(self) -> None:
        self.inverted = 0
        self.edits = many_edits()

    def invert(self, aligned: Image.Image, _pause: object = None) -> Image.Image:
        self.inverted += 1
        return aligned

    def edit(self, inversion: Image.Image, strengths: dict[str, float], edits: dict | None = None) -> Image.Image:
        edit_offset(self.edits if edits is None else edits, strengths)  # raises what the real one does
        time.sleep(strengths.get("extra19", 0) / 20)
        if any(edits[key].group not in GROUPS for key, value in strengths.items() if value and edits):
            inversion = ImageOps.mirror(inversion)
        bright = ImageEnhance.Brightness(inversion).enhance(1 + strengths.get("smile", 0) / 200)
        return ImageEnhance.Color(bright).enhance(1 - max(strengths.get("age", 0), 0) / 100)

    def render(self, *arguments: object) -> EditOutput:
        return EditOutput(self.edit(*arguments), *STILL)


class WholePhoto:
    """In the aligner's place: the whole photo is the face."""

    def find(self, photo: Photo) -> tuple[Photo, list[Face]]:
        return photo, [Face((0, 0, *photo.image.size), np.zeros((0, 2)))]

    def align(self, photo: Image.Image, face: Face) -> AlignedFace:
        width, height = photo.size
        quad = np.array([(0, 0), (0, height), (width, height), (width, 0)], float)
        return AlignedFace(photo.resize((64, 64)), quad, face)


class HeldStandIn(StandIn):
    """A stand-in that a test can stop at the doors "invert" and "edit", to do something on the page meanwhile.

    Attributes:
        waiting: whether somebody stands at the door "edit".
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting = False
        self.doors = {"invert": threading.Event(), "edit": threading.Event()}
        for door in self.doors.values():
            door.set()

    @contextlib.contextmanager
    def held(self, door: str) -> Iterator[None]:
        """Closed until the block ends, at the latest a minute later."""
        self.doors[door].clear()
        try:
            yield
        finally:
            self.doors[door].set()

    def invert(self, aligned: Image.Image, _pause: object = None) -> Image.Image:
        self.doors["invert"].wait(60)
        return super().invert(aligned)

    def edit(self, *arguments: object) -> Image.Image:
        self.waiting = not self.doors["edit"].is_set()
        self.doors["edit"].wait(60)
        self.waiting = False
        return super().edit(*arguments)


class StandInWords:
    """In CLIP's place: any description is an edit, after a moment."""

    def direction(self, _generator: object, neutral: str, target: str) -> EditDirection:
        if not target.strip():
            raise GRAError("Describe the edit.")
        smile = many_edits()["smile"]
        return replace(smile, key="text_edit", label=target, hint=f"From {neutral}.", group="In words", kind="text")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, command: list[str]) -> tuple[subprocess.Popen, str]:
    """A process that serves the page, with its address once it answers. Its files are in `folder`/gradio."""
    port = free_port()
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return process, address
        except OSError:
            output = (folder / "log").read_text()
            assert process.poll() is None, f"the server ended:\n{output}"
            if time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the server does not answer:\n{output}") from None
            time.sleep(0.3)


@contextlib.contextmanager
def served(folder: Path, command: list[str]) -> Iterator[str]:
    """Address of a page that `command` serves; fails when the server printed a traceback or left files behind."""
    process, address = start(folder, command)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
    output = (folder / "log").read_text()
    assert "Traceback" not in output, output
    assert list((folder / "gradio").iterdir()) == []


def files_in(folder: Path) -> list[Path]:
    """What a page keeps on disk, without its lock."""
    found = os.walk(folder / "gradio")  # files may vanish meanwhile
    return [Path(place, name) for place, _, names in found for name in names if name != "lock"]


def wait_until(condition, seconds: float = 20) -> None:
    """Until `condition()` holds; fails when it does not come to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def drawn(photo: Image.Image | View, *edits: tuple[AlignedFace, Image.Image]) -> Image.Image:
    """A photo, or a view of it, with edited faces, as the page shows it of the stand-in."""
    outputs = [(aligned, EditOutput(edited, *STILL)) for aligned, edited in edits]
    return compose(photo, outputs, [aligned.face for aligned, _ in edits])


def close_up(photo: Image.Image, aligned: AlignedFace, edited: Image.Image) -> Image.Image:
    """The edited face as the page shows it of the stand-in."""
    return drawn(View.close_up(photo, aligned, IMAGE_SIZE), (aligned, edited))


@contextlib.contextmanager
def chromium() -> Iterator[object]:
    """A headless Chromium: the system's, else Playwright's own."""
    import pytest
    from playwright.sync_api import Error, sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_OPTIONS)
        except Error as error:
            pytest.fail(
                "No browser for the page tests: install Chromium (Debian: apt-get install chromium; elsewhere: "
                f"python -m playwright install chromium). {error}",
                pytrace=False,
            )
        yield browser
        browser.close()


ORIGINAL, RESULT = "#comparison img.before", "#comparison img.after"


def fetch(tab, address: str):
    """What the server answers; asks again when it closed the idle connection on which the question was sent."""
    return tab.request.get(address, max_retries=3)


def picture(tab, selector: str = RESULT) -> Image.Image:
    """A picture as the browser gets it."""
    response = fetch(tab, tab.locator(f"{selector}[src]").get_attribute("src"))  # waits for the first picture
    assert response.ok
    with Image.open(io.BytesIO(response.body())) as shown:
        return shown.convert("RGB")


def eventually(tab, wanted, seconds: float = 60) -> Image.Image:
    """The result as soon as it is as `wanted`; fails when it does not become so."""
    deadline = time.monotonic() + seconds
    while not wanted(shown := picture(tab)):
        assert time.monotonic() < deadline, "the picture did not become what it should"
        tab.wait_for_timeout(100)
    return shown


def difference(one: Image.Image, other: Image.Image, box: tuple[int, int, int, int] | None = None) -> float:
    """Mean absolute difference in levels, inside `box` if there is one."""
    first, second = (np.asarray(image.crop(box) if box else image, dtype=float) for image in (one, other))
    return float(np.abs(first - second).mean())


def like(expected: Image.Image, tolerance: float = 0.01):
    """Whether a picture is the expected one."""
    return lambda shown: shown.size == expected.size and difference(shown, expected) <= tolerance


DISGUISES = (
    str,
    lambda path: {"path": str(path)},
    lambda path: {"path": str(path), "meta": {"_type": "gradio.FileData"}},
    lambda path: {"path": str(path), "url": f"/gradio_api/file={path}", "orig_name": path.name, "is_stream": True},
    lambda path: f"{path.parent}/./{path.name}",
    lambda path: f"{upload_folder()}/../{os.path.relpath(path, upload_folder().parent)}",
    lambda path: f"file://{path}",
    lambda path: {"path": f"file://{path}", "meta": {"_type": "gradio.FileData"}},
    lambda path: json.dumps([str(path)]),
    lambda path: json.dumps([{"path": str(path), "meta": {"_type": "gradio.FileData"}}]),
    lambda path: [str(path)],
    lambda path: [{"path": str(path), "meta": {"_type": "gradio.FileData"}}],
    lambda path: {"value": {"path": str(path), "meta": {"_type": "gradio.FileData"}}},
)
"""Ways in which a client may name a file of the server."""


def upload_folder() -> Path:
    """Where Gradio keeps files."""
    from gradio.utils import get_upload_folder  # not before a server has its own, see `temp_dir`

    return Path(get_upload_folder())


def sent(state, path: Path, name: str | None = None) -> dict[str, str]:
    """A file as Gradio hands it over after a visitor uploaded it."""
    arrived = upload_folder() / "arriving" / Path(path).name
    arrived.parent.mkdir(parents=True, exist_ok=True)
    os.link(path, arrived)
    return {"path": str(state.received.add(arrived)), "orig_name": name or arrived.name}


def uploaded(response) -> dict[str, object]:
    """The file of an answered upload, as endpoints take it."""
    return {"path": response.json()[0], "meta": {"_type": "gradio.FileData"}}


def called(address: str, endpoint: str, *arguments: object, seconds: float = 60) -> str:
    """All events of a call of an endpoint."""
    import httpx

    place = f"{address}/gradio_api/call/{endpoint}"
    answer = httpx.post(place, json={"data": list(arguments)}, timeout=seconds)
    return httpx.get(f"{place}/{answer.json()['event_id']}", timeout=seconds).text


def set_slider(tab, key: str, value: str) -> None:
    """Type a strength."""
    tab.locator(f"#edit-{key} input[type=number]").fill(value)


def upload(tab, path: Path | str | dict) -> None:
    """Choose a photo and wait until it is ready."""
    tab.set_input_files("#upload input[type=file]", path)
    tab.wait_for_selector("#stage-bar", state="visible")
    tab.wait_for_selector("#status .ready")


def axe_flaws(tab) -> list[str]:
    """What axe-core finds serious or critical on the page as it stands, once it stands still."""
    from axe_core_python.sync_playwright import Axe

    # A button that fades from one look to the other is pale for a moment.
    tab.evaluate(
        """async () => {
            const passing = (change) => change.effect.getComputedTiming().iterations !== Infinity;
            await Promise.allSettled(document.getAnimations().filter(passing).map((change) => change.finished));
        }"""
    )
    found = Axe().run(tab)["violations"]
    return [
        f"{rule['id']}: {[node['html'][:160] for node in rule['nodes'][:4]]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


@contextlib.contextmanager
def launched(port: int, load_editor: Callable[[], StandIn] = StandIn) -> Iterator[str]:
    """Address of a page with a stand-in, served by this process: there at once, and gone at once."""
    from gra_core.ui.page import launch_options

    page, place = stand_in_page(load_editor), {"server_name": "127.0.0.1", "server_port": port}
    _, address, _ = page.launch(**launch_options(page), **place, prevent_thread_lock=True, quiet=True)
    try:
        yield address.rstrip("/")
    finally:
        page.close(verbose=False)
        for thread in threading.enumerate():  # the interpreter must not end before it
            if thread.name == "warm-up":
                thread.join(60)


def stand_in_page(load_editor: Callable[[], StandIn] = StandIn) -> object:
    from gra_core.ui.app_state import AppState
    from gra_core.ui.page import build_page

    return build_page(AppState(load_editor, many_edits, StandInWords))


if __name__ == "__main__":
    from gra_core.ui import temp_dir

    temp_dir.claim()
    from gra_core.ui import edit_tab, temp_store
    from gra_core.ui.page import launch_options

    temp_store.PATIENCE = 1.0  # files of a visitor who left go sooner, so that tests need not wait
    edit_tab.FINAL_SECONDS = 0.05  # and pictures without loss come sooner
    page = stand_in_page()
    page.launch(**launch_options(page))
