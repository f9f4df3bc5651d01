"""Runs functions of this package on files that people bring, each call in a worker process with limits.

A decoder may take minutes over a small file, ask for terabytes, or crash. Here that ends a worker and never the
program: a worker that is over its time is killed, its address space and CPU time are limited where the system can do
that, its environment holds no secrets, it has no descriptor but those it is asked to read, and it may open neither
files nor connections (`landlock.py`), so that little is won by who gets in. Workers are fresh interpreters, not forks:
they hold nothing of the program's memory and never wait for its locks. Large results go back through memory that both
processes see, and small ones through a pipe.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from gra_core.errors import BusyError, GRAError
from gra_core.landlock import confine

try:
    import resource
except ImportError:  # Windows: time is limited, memory is not
    resource = None

PLACES = max(2, min(os.cpu_count() or 2, 8))
"""How many workers run at a time."""

SPARE = 1
"""How many idle workers are kept, so that a call need not wait for an interpreter to start."""

RETIRE_CALLS = 64
RETIRE_BYTES = 100_000_000
"""A worker ends after so many calls, and after one that left it with so much memory of its own: it goes back so."""

START_SECONDS = 30.0
PATIENCE = 60.0
"""How long a worker may take to start, and a call may wait for a place."""

WARM = (
    "gra_core.decoding:readable_formats",
    "gra_core.directions.files:to_rows",
    "gra_core.archives:list_photos",
)
"""Functions that a worker imports before it is confined; it calls the first one, too."""

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TMPDIR", "TEMP")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Threads that libraries start on import would not be confined."""

_LONGEST_LINE = 2**20
_COPY_BYTES = 2**20


class SandboxError(Exception):
    """A call came to nothing. It is the caller who knows what to say of the file.

    Attributes:
        reason: "time" (killed after its seconds), "end" (the worker crashed or was over its memory or CPU time), or
            "error" (the function raised something that is not one of our errors).
    """

    def __init__(self, reason: Literal["time", "end", "error"]) -> None:
        super().__init__(reason)
        self.reason = reason


class Shared:
    """Bytes that a worker sees too: a file, or memory without a name that lives as long as somebody maps it."""

    def __init__(self, size: int, descriptor: int | None = None, name: str | None = None) -> None:
        self.size, self.descriptor, self.name = size, descriptor, name
        self._map = mmap.mmap(-1, size, tagname=name) if name else None  # Windows: the name lives as long as this

    @classmethod
    def memory(cls, size: int) -> Shared:
        """Fresh memory of `size` > 0 bytes, all zero. Raises OSError."""
        if os.name == "nt":
            return cls(size, name=f"gra-{os.urandom(16).hex()}")
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("gra", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.truncate(descriptor, size)
        if hasattr(os, "memfd_create"):
            import fcntl  # noqa: PLC0415 - not on Windows

            # Of a fixed size: a worker that made it shorter would crash whoever reads the end.
            with contextlib.suppress(OSError):  # a system that only resembles Linux
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(size, descriptor)

    @classmethod
    def file(cls, path: str | Path) -> Shared:
        """A file: itself where an open one can be handed over, else a copy of its content. Raises OSError."""
        with open(path, "rb") as file:
            return cls.content(file) if os.name == "nt" else cls(os.fstat(file.fileno()).st_size, os.dup(file.fileno()))

    @classmethod
    def content(cls, stream: BinaryIO) -> Shared:
        """A copy of what a stream that can seek holds, from its start, which is not nothing. Raises OSError."""
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        shared = cls.memory(size)
        with shared.map() as target, memoryview(target) as view:
            place = 0
            while part := stream.read(min(_COPY_BYTES, size - place)):
                view[place : place + len(part)] = part
                place += len(part)
        return shared

    def map(self, *, writable: bool = True) -> mmap.mmap:
        """The bytes as memory; closes itself with its last user."""
        if self.name:
            return mmap.mmap(-1, self.size, tagname=self.name)
        return mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)

    def open(self) -> BinaryIO:
        """The bytes as a binary stream, at its start."""
        if self.name:
            return io.BytesIO(self.map(writable=False))
        stream = os.fdopen(os.dup(self.descriptor), "rb")
        stream.seek(0)
        return stream

    def close(self) -> None:
        """Let go of it; maps that were made stay."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self._map is not None:
            self._map.close()

    def __enter__(self) -> Shared:
        """For `with`."""
        return self

    def __exit__(self, *_error: object) -> None:
        """As `close`."""
        self.close()


# --- the side of the program ------------------------------------------------------------------------------------------


def call(
    function: str,
    shared: Sequence[Shared],
    arguments: dict[str, object],
    *,
    seconds: float,
    memory: int,
    output: int = 0,
) -> tuple[object, bytes]:
    """Call a function of this package in a worker.

    Args:
        function: "package.module:function", called as `function(*shared, **arguments)`; it returns something that
            JSON can hold, or that and a list of buffers.
        shared: what it reads and writes.
        arguments: further arguments, which JSON can hold.
        seconds: time after which the worker is killed.
        memory: bytes that the call may take beyond what the worker takes at rest, mapped memory included.
        output: most bytes that its buffers may have together.

    Returns:
        What the function returned, and the bytes of its buffers.

    Raises:
        GRAError: one that the function raised, of the same class.
        BusyError: no worker became free for a minute.
        SandboxError: nothing came of it.
    """
    if not _pool.places.acquire(timeout=PATIENCE):
        raise BusyError("Too many files are being read just now. Try again in a minute.")
    try:
        worker = _pool.take()
        try:
            request = {"function": function, "arguments": arguments, "seconds": seconds, "memory": memory}
            answer, payload = worker.ask(request, shared, seconds, output)
        except BaseException:
            worker.end()
            raise
        finally:
            _pool.put(worker)
    finally:
        _pool.places.release()
    if "refused" in answer:
        kind, message = answer["refused"]
        raise _error_class(kind)(message)
    if "error" in answer:
        raise SandboxError("error")
    return answer.get("value"), payload


def warm_up() -> None:
    """Start a worker, so that the first call need not wait for it. Returns at once."""
    _pool.fill()


def process_ids() -> list[int]:
    """Ids of the idle workers, for measurements."""
    return [worker.process.pid for worker in _pool.idle]


class _Worker:
    """A worker process, as the program sees it."""

    def __init__(self) -> None:
        self.calls, self.memory, self.alive, self.ready = 0, 0, True, False
        self._channel, theirs = socket.socketpair() if os.name != "nt" else (None, None)
        paths = [os.path.abspath(path) for path in sys.path]
        number = theirs.fileno() if theirs else -1
        program = f"import sys; sys.path[:] = {paths!r}; from gra_core.sandbox import serve; serve({number}, {WARM!r})"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | _ONE_THREAD,
                cwd=tempfile.gettempdir(),
                pass_fds=[number] if theirs else (),
                start_new_session=True,  # Ctrl+C is for the program
            )
        finally:
            if theirs:
                theirs.close()

    def ask(self, request: dict, shared: Sequence[Shared], seconds: float, output: int) -> tuple[dict, bytes]:
        """Send a request and wait for the answer. Raises SandboxError."""
        try:
            if not self.ready:
                self._within(START_SECONDS, self.process.stdout.readline)
                self.ready = True
            return self._within(seconds, lambda: self._exchange(request, shared, output))
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ) as error:  # it ended, or wrote what is no answer
            raise SandboxError("end") from error

    def _within(self, seconds: float, function: Callable[[], Any]) -> Any:
        """Call a function that waits for the worker, which is killed when its time is over."""
        over = threading.Event()

        def kill() -> None:
            over.set()
            self.end()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            return function()
        except (OSError, ValueError) as error:
            if over.is_set():
                raise SandboxError("time") from error
            raise
        finally:
            timer.cancel()

    def _exchange(self, request: dict, shared: Sequence[Shared], output: int) -> tuple[dict, bytes]:
        handles = [{"size": part.size, "name": part.name} for part in shared]
        if shared and self._channel:
            socket.send_fds(self._channel, [b"x"], [part.descriptor for part in shared])
        self.process.stdin.write(json.dumps(request | {"shared": handles}).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("the worker ended")
        answer = json.loads(line)
        length = int(answer.get("payload", 0))
        if not 0 <= length <= output:
            raise ValueError("more output than was asked for")
        payload = self.process.stdout.read(length) if length else b""
        if len(payload) != length:
            raise ValueError("the worker ended")
        self.calls += 1
        self.memory = int(answer["memory"])
        return answer, payload

    def end(self) -> None:
        """Kill the process."""
        self.alive = False
        with contextlib.suppress(OSError):
            self.process.kill()

    def close(self) -> None:
        """Kill the process and let go of what belonged to it."""
        self.end()
        for end in (self.process.stdin, self.process.stdout, self._channel):
            with contextlib.suppress(OSError):
                if end:
                    end.close()
        self.process.wait()


class _Pool:
    """The workers of this process."""

    def __init__(self) -> None:
        self.places = threading.BoundedSemaphore(PLACES)
        self.idle: list[_Worker] = []
        self._lock = threading.Lock()

    def take(self) -> _Worker:
        """An idle worker, or a fresh one. Raises SandboxError when none can be started."""
        with self._lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.close()
        try:
            return _Worker()
        except OSError as error:
            raise SandboxError("end") from error

    def put(self, worker: _Worker) -> None:
        """Take a worker back, or end it and start another in its place."""
        good = worker.alive and worker.calls < RETIRE_CALLS and worker.memory < RETIRE_BYTES
        with self._lock:
            if good and len(self.idle) < SPARE:
                self.idle.append(worker)
                return
        worker.close()
        self.fill()

    def fill(self) -> None:
        """Start workers until there are SPARE idle ones."""
        with self._lock, contextlib.suppress(OSError):
            while len(self.idle) < SPARE:
                self.idle.append(_Worker())


_pool = _Pool()


def _start_anew() -> None:
    """After a fork: the workers belong to the other process."""
    global _pool  # noqa: PLW0603
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def _error_class(name: str) -> type[GRAError]:
    kinds = {kind.__name__: kind for kind in GRAError.__subclasses__()}
    return kinds.get(name, GRAError)


# --- the side of the worker ------------------------------------------------------------------------------------------


def serve(channel: int, warm: Sequence[str]) -> None:
    """Answer requests from standard input until it ends.

    Args:
        channel: number of a socket that brings descriptors, or -1.
        warm: as WARM.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # what a library prints is no answer
        os.dup2(nothing, stream)
    descriptors = socket.socket(fileno=channel) if channel >= 0 else None
    first, *_ = map(_function, warm)
    first()
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform.startswith("linux") else None
    confine(_own_folders())
    answers.write(b"ready\n")
    answers.flush()
    for line in requests:
        answer, buffers = _answer(json.loads(line), descriptors, statm)
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(answer).encode() + b"\n")
            for buffer in buffers:
                answers.write(buffer)
            answers.flush()


def _function(place: str) -> Callable[..., Any]:
    """The function of "package.module:function"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _answer(request: dict, descriptors: socket.socket | None, statm: int | None) -> tuple[dict, Sequence[memoryview]]:
    handles, buffers, answer = request["shared"], (), {}
    numbers = socket.recv_fds(descriptors, 1, len(handles))[1] if handles and descriptors else [None] * len(handles)
    with contextlib.ExitStack() as stack:
        pairs = zip(handles, numbers, strict=True)
        shared = [stack.enter_context(Shared(handle["size"], number, handle["name"])) for handle, number in pairs]
        stack.enter_context(_limited(request["seconds"], request["memory"], _pages(statm)[0]))
        try:
            value = _function(request["function"])(*shared, **request["arguments"])
            value, buffers = value if isinstance(value, tuple) else (value, ())
            buffers = [memoryview(buffer).cast("B") for buffer in buffers]
            answer = {"value": value, "payload": sum(map(len, buffers))}
        except GRAError as error:
            answer = {"refused": [type(error).__name__, str(error)]}
        except (Exception, RecursionError) as error:
            answer = {"error": type(error).__name__}
    return answer | {"memory": _pages(statm)[1] * mmap.PAGESIZE}, buffers


@contextlib.contextmanager
def _limited(seconds: float, memory: int, pages: int) -> Iterator[None]:
    """Limits of CPU time and address space beyond the `pages` in use, where the system has them."""
    if resource is None:
        yield
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime + seconds) + 1}
    if pages:
        limits[resource.RLIMIT_AS] = pages * mmap.PAGESIZE + memory
    hard = {kind: resource.getrlimit(kind)[1] for kind in limits}
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, hard[kind]))
    try:
        yield
    finally:
        for kind in limits:
            resource.setrlimit(kind, (hard[kind], hard[kind]))


def _pages(statm: int | None) -> tuple[int, int]:
    """Pages of the address space, and those that this process has for itself; 0 where that cannot be known."""
    if statm is None:
        return 0, 0
    size, resident, shared, *_ = map(int, os.pread(statm, 200, 0).split())
    return size, resident - shared


def _own_folders() -> set[str]:
    """Folders of the standard library and of the packages that are loaded, for what they import later."""
    packages = [module for name, module in list(sys.modules.items()) if "." not in name]
    folders = {folder for package in packages for folder in getattr(package, "__path__", ())}
    return folders | {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
