"""Work on files that people bring: whatever it does, the program gets an answer in time and stays as it was."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from measuring import watched

from gra_core import sandbox
from gra_core.constants import PROJECT_ROOT
from gra_core.errors import UnknownEditError
from gra_core.sandbox import SandboxError, Shared

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")


@pytest.fixture(scope="module", autouse=True)
def _workers_that_know_the_functions_of_these_tests():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "WARM", (*sandbox.WARM, "sandboxed:echo"))
        patch.setattr(sandbox, "_pool", sandbox._Pool())
        yield
        for worker in sandbox._pool.idle:
            worker.close()


def call(function, *shared, seconds=5.0, memory=100_000_000, output=0, **arguments):
    answer, payload = sandbox.call(
        f"sandboxed:{function}", shared, arguments, seconds=seconds, memory=memory, output=output
    )
    return (answer, payload) if output else answer


def reason_of(function, **options) -> str:
    with pytest.raises(SandboxError) as error:
        call(function, **options)
    return error.value.reason


def test_files_go_in_and_answers_come_out(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    for shared in (Shared.file(tmp_path / "file"), Shared.content(io.BytesIO(b"content"))):
        with shared:
            assert call("echo", shared, output=14, word="ä") == ({"word": "ä"}, b"contentcontent")
    assert call("talk") == "answer"


def test_large_results_come_through_memory_that_stays_as_large_as_it_was():
    with Shared.memory(2**20) as target:
        assert call("fill", target) is None
        memory = target.map(writable=False)
    assert memory[1000] == 1000 % 256
    with pytest.raises(TypeError):
        memory[0] = 1


@LINUX
def test_a_worker_cannot_cut_memory_short():
    with Shared.memory(2**20) as target:
        with pytest.raises(SandboxError):
            call("shorten", target)
        assert target.map()[2**20 - 1] == 0


def test_errors_keep_their_kind():
    with pytest.raises(UnknownEditError, match=r"^There is no such edit\.$"):
        call("refuse")
    assert reason_of("fail") == "error"
    with pytest.raises(SandboxError), Shared.content(io.BytesIO(b"content")) as shared:
        call("echo", shared, output=13)


def test_what_takes_too_long_is_killed():
    started = time.perf_counter()
    assert reason_of("spin", seconds=0.5) == "time"
    with pytest.raises(SandboxError) as error:
        sandbox.call("sandboxed:sleep", [], {"seconds": 60}, seconds=0.5, memory=10**8)
    assert error.value.reason == "time"
    assert time.perf_counter() - started < 5


def test_a_crash_ends_the_worker_only():
    assert reason_of("crash") == "end"
    assert call("talk") == "answer"


@LINUX
@pytest.mark.parametrize("size", [10**9, 10**15])
def test_memory_is_limited(size):
    with pytest.raises(SandboxError):
        call("grow", size=size)
    assert call("grow", size=10**7) == 10**7


@LINUX
def test_a_worker_writes_no_files(tmp_path):
    with pytest.raises(SandboxError):
        call("write", path=str(tmp_path / "file"))
    assert not (tmp_path / "file").exists() or not (tmp_path / "file").read_text()


@LINUX
def test_a_worker_has_no_secrets_and_no_descriptors(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with (tmp_path / "private").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        fresh = sandbox._Worker()
        try:
            request = {"function": "sandboxed:surroundings", "arguments": {}, "memory": 10**8, "seconds": 5}
            answer, _ = fresh.ask(request, [], 5, 0)
        finally:
            fresh.close()
    found = answer["value"]
    assert "HF_TOKEN" not in found["environment"]
    assert not any("private" in name for name in found["descriptors"])


@LINUX
def test_a_worker_opens_neither_files_nor_connections(tmp_path):
    if not call("is_confined", path=str(Path(__file__))):
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "private").write_text("secret")
    for path in (tmp_path / "private", "/etc/passwd", f"/proc/{os.getpid()}/environ"):
        assert call("is_confined", path=str(path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not call("connect", port=server.getsockname()[1])
    assert call("is_confined", path=json.__file__) is False  # it may import


def test_workers_are_kept_until_they_hold_memory(monkeypatch):
    first = call("process")
    assert call("process") == first
    monkeypatch.setattr(sandbox, "RETIRE_BYTES", 1)
    call("process")
    monkeypatch.undo()
    assert call("process") != first


def test_other_threads_go_on_meanwhile():
    with watched() as watch:
        for function, options in (("spin", {"seconds": 0.5}), ("crash", {}), ("fail", {})):
            reason_of(function, **options)
    assert watch.stall < 0.3


def test_workers_end_with_the_program():
    program = (
        "from gra_core import sandbox\n"
        "print(sandbox.call('os:getpid', [], {}, seconds=5, memory=10**8)[0], flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    number = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived the program")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_workers_of_its_own():
    ours = call("process")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(call("process")).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) != ours
    assert call("process") == ours
    os.close(reader)
    os.close(writer)
