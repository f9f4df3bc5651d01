"""What breaks around a running page, and what it does then: `make load`, or `pytest tests/load/faults.py`."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import hostile
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from measuring import memory, memory_of
from serving import SERVER, called, files_in, free_port, launched, start, uploaded, wait_until

from gra_core.constants import CHECKPOINT_DIR, PROJECT_ROOT
from gra_core.ui import app_state, received, strings
from gra_core.ui.gate import UPLOAD

EDIT = "/edit"


@pytest.fixture
def photo(astronaut, tmp_path) -> Path:
    path = tmp_path / "astronaut.png"
    astronaut.save(path)
    return path


def test_a_server_that_is_killed_in_the_middle_of_an_edit_starts_anew_and_clean(tmp_path, photo):
    process, address = start(tmp_path, [SERVER])
    client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
    job = client.submit(handle_file(photo), {"extra19": 100}, api_name=EDIT)  # takes five seconds
    wait_until(lambda: files_in(tmp_path))
    time.sleep(1)
    process.kill()
    process.wait()
    with pytest.raises(Exception):  # noqa: B017 - the client has many
        job.result(timeout=60)
    assert files_in(tmp_path)
    process, address = start(tmp_path, [SERVER])
    try:
        assert files_in(tmp_path) == []
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        assert Path(client.predict(handle_file(photo), {"smile": 60}, api_name=EDIT)).exists()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_said_so_and_all_goes_on_when_there_is_room(tmp_path, photo):
    disk = tmp_path / "gradio"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", disk], check=True)
    try:
        process, address = start(tmp_path, [SERVER])
        try:
            upload = {"files": ("me.png", photo.read_bytes())}
            image = uploaded(httpx.post(address + UPLOAD, files=upload))

            def edit() -> str:
                return called(address, "edit", image, {"smile": 60}, 0, False, "png")

            assert "event: complete" in edit()
            with (disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(bytes(2**20))
                    filler.flush()
            for _ in range(3):
                assert strings.NO_ROOM in edit()
            answer = httpx.post(address + UPLOAD, files=upload)
            assert (answer.status_code, answer.text) == (413, strings.NO_ROOM)
            assert [path for path in files_in(tmp_path) if path.suffix == ".png" and not path.stat().st_size] == []
            (disk / "filler").unlink()
            assert "event: complete" in edit()
        finally:
            process.terminate()
            process.wait(timeout=30)
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_weights_that_are_exchanged_or_lost_do_not_reach_a_running_editor(tmp_path, face):
    """Nor do they crash it: a file that is cut short while it is mapped into memory would."""
    folder = tmp_path / "weights"
    shutil.copytree(CHECKPOINT_DIR, folder)
    program = f"""
import pathlib, sys
from PIL import Image
from gra_core.editor import PortraitEditor
editor = PortraitEditor.from_pretrained({str(folder)!r}, device="cpu")
face = Image.open({str(tmp_path / "face.png")!r})
before = editor.edit(editor.invert(face), {{"smile": 60}})
for path in pathlib.Path({str(folder)!r}).glob("*.safetensors"):
    with path.open("r+b") as file:
        file.truncate(1000)
after = editor.edit(editor.invert(face), {{"smile": 60}})
before.save({str(tmp_path / "before.png")!r})
after.save({str(tmp_path / "after.png")!r})
"""
    face.resize((1024, 1024)).save(tmp_path / "face.png")
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
    from PIL import Image

    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("before.png", "after.png"))
    assert np.array_equal(before, after)
    done = subprocess.run(
        [sys.executable, "-m", "gra_core", "edit", str(tmp_path / "face.png"), "--checkpoints", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_uploads_that_break_off_leave_nothing(tmp_path, photo, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(received, "STALE", 1.0)
    monkeypatch.setattr(received, "UNUSED", 1.0)
    monkeypatch.setattr(app_state, "HOUSEKEEPING_SECONDS", 0.5)
    with launched(free_port()) as address:
        host, port = address.removeprefix("http://").split(":")
        head = (
            f"POST {UPLOAD} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        )

        def break_off() -> None:
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head.encode() + bytes(1_000_000))
                time.sleep(0.2)

        threads = [threading.Thread(target=break_off) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: files_in(tmp_path) == [], 60)
        assert httpx.post(address + UPLOAD, files={"files": ("me.png", photo.read_bytes())}).status_code == 200


def test_many_large_uploads_of_one_client_end_in_a_sentence_and_go_within_a_minute(tmp_path):
    process, address = start(tmp_path, [SERVER])
    content, answers, most = b"\x89PNG\r\n\x1a\n" + os.urandom(20_000_000), Counter(), 0
    try:
        for number in range(200):
            answer = httpx.post(address + UPLOAD, files={"files": (f"{number}.png", content)}, timeout=60)
            answers[answer.status_code] += 1
            assert answer.status_code == 200 or answer.text == strings.NO_ROOM, answer.text
            most = max(most, sum(path.stat().st_size for path in files_in(tmp_path)))
        begun = time.monotonic()
        wait_until(lambda: files_in(tmp_path) == [], 60)
        print(f"{dict(answers)}, most {most / 1e6:.0f} MB on disk, gone after {time.monotonic() - begun:.0f} s")
        assert httpx.post(address + UPLOAD, files={"files": ("again.png", content)}).status_code == 200
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_six_huge_photos_at_once_through_the_api_wait_for_each_other(tmp_path):
    process, address = start(tmp_path, [SERVER])
    content, answers, workers, most = hostile.empty_png(), [], [], 0

    def align() -> None:
        sent = httpx.post(address + UPLOAD, files={"files": ("huge.png", content)}, timeout=60)
        answers.append(called(address, "align", uploaded(sent), 0, seconds=300))

    try:
        before = memory(process.pid)
        workers = [threading.Thread(target=align) for _ in range(6)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            most = max(most, memory(process.pid))
            time.sleep(0.02)
        wait_until(lambda: memory(process.pid) - before < 200_000_000, 60)
        kept = memory(process.pid) - before
    finally:
        process.terminate()
        process.wait(timeout=30)
    print(f"peak {(most - before) / 1e6:.0f} MB, kept after {kept / 1e6:.0f} MB")
    assert len(answers) == 6
    assert all("No face found" in answer for answer in answers), answers
    assert most - before < 3_000_000_000


def test_hostile_files_through_the_api(tmp_path):
    """Each is answered with a picture or a sentence, in time, and the server goes on."""
    corpus = hostile.write_corpus(tmp_path / "corpus")
    process, address = start(tmp_path, [SERVER])
    outcomes, slow, times = Counter(), [], []
    try:
        before = memory_of(process.pid)
        for path in itertools.chain.from_iterable(corpus.values()):
            begun = time.monotonic()
            sent = httpx.post(address + UPLOAD, files={"files": (path.name, path.read_bytes())}, timeout=60)
            if sent.status_code != 200:
                outcomes[f"refused: {sent.status_code}"] += 1
                continue
            answer = called(address, "align", uploaded(sent), 0)
            assert str(tmp_path) not in answer or "event: complete" in answer
            assert strings.UNEXPECTED not in answer, path
            outcomes["picture" if "event: complete" in answer else "sentence"] += 1
            times.append(time.monotonic() - begun)
            if times[-1] > 10:
                slow.append(path.name)
        time.sleep(20)
        after = memory_of(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)
    print(f"{outcomes}, longest {max(times):.1f} s, memory {before:.0f} MB, then {after:.0f} MB")
    assert slow == []
    assert "Traceback" not in (tmp_path / "log").read_text()
