"""A folder of this run's own for all that it writes: photos that come in, and pictures for browsers.

Only the user who runs the program can look into it. It goes at the end of the run; what a run that was killed left
behind goes at the start of the next. This module is imported before Gradio, which reads the environment early.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PREFIX = "gra-portrait-editor-"
LOCK = "lock"
"""File in the folder that is locked as long as the run lasts. The system unlocks it however the run ends."""

UPLOADS = "files"
"""Folder in it that Gradio is told to use."""

BEGINNING = 60.0
"""Seconds for which a folder may be without its lock file: another run is just making it."""

TEMP_DIR = "GRADIO_TEMP_DIR"
"""Environment variable: where Gradio keeps files."""


def claim() -> Path:
    """Make the folder and have Gradio use it; at the end of the run, also by Ctrl+C or SIGTERM, it goes.

    It is made in the folder that GRADIO_TEMP_DIR names, else in the system's for temporary files. Call this once, from
    the main thread, before Gradio is imported.

    Returns:
        The folder.

    Raises:
        OSError: no folder can be made there.
    """
    root = Path(os.environ.get(TEMP_DIR) or tempfile.gettempdir())
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    folder, lock = _make(root)
    (folder / UPLOADS).mkdir(mode=0o700)
    os.environ[TEMP_DIR] = str(folder / UPLOADS)
    owner = os.getpid()

    def release() -> None:
        if os.getpid() == owner:  # not at the end of a process that was forked off
            shutil.rmtree(folder / UPLOADS, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.close(lock)  # Windows removes no file that is open
            shutil.rmtree(folder, ignore_errors=True)

    def end(number: int, _frame: object) -> None:
        release()
        os._exit(128 + number)  # at once: threads of the model do not survive an ordinary end

    atexit.register(release)
    for name in ("SIGTERM", "SIGHUP"):  # a service is stopped; a terminal is closed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    return folder


def remove_leftovers(root: Path) -> None:
    """Remove the folders in `root` whose runs have ended; those of other users are left alone."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _ended(folder) as over:
            if over:
                shutil.rmtree(folder, ignore_errors=True)


def _make(root: Path) -> tuple[Path, int]:
    """A fresh folder and its lock, which is held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root)).resolve()  # of mode 0700
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        held = _try_lock(lock)
        with contextlib.suppress(OSError):
            # A run that starts at the same moment may have taken the folder for a leftover before it was locked.
            if held and os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                return folder, lock
        os.close(lock)


@contextlib.contextmanager
def _ended(folder: Path) -> Iterator[bool]:
    """Whether the run that made a folder is over; while the block lasts, nobody else thinks so. Raises OSError."""
    about = folder.lstat()
    ours = stat.S_ISDIR(about.st_mode) and (not hasattr(os, "getuid") or about.st_uid == os.getuid())
    if not ours:
        yield False
        return
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        yield time.time() - about.st_mtime > BEGINNING
        return
    try:
        yield _try_lock(lock)
    finally:
        os.close(lock)


def _try_lock(file: int) -> bool:
    """Lock an open file, unless another process has; whether it is locked now."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
