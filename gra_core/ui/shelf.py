"""Files of one visitor that the browser fetches."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image

from gra_core.errors import GRAError
from gra_core.ui import words

PATIENCE = 10.0
"""Seconds that files outlive their use, for a browser that is still loading one of them."""

KEPT_FILES = 8
"""Results of the same visitor that stay on disk, so that a browser still loading an older one finds it."""


class Shelf:
    """A folder of pictures that the browser fetches; its name cannot be guessed.

    Args:
        root: the folder that it is made in; by default the one from which Gradio serves files.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.folder = Path(root or get_upload_folder()) / secrets.token_hex(16)
        self._recent: deque[Path] = deque()
        self._closed, self._lock = False, threading.Lock()

    def path(self, name: str | Path) -> Path:
        """Where a file of that name goes; an older one is deleted. Raises GRAError when the shelf was cleared."""
        with self._lock:
            if self._closed:
                raise GRAError(words.EXPIRED)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def keep(self, image: Image.Image, name: str) -> str:
        """Write a picture that stays until the shelf is cleared, or refresh its age; returns the path."""
        path = self.folder / name
        if path.exists():
            os.utime(path)
        else:
            _write(image, self.path(name))
        return str(path)

    def put(self, image: Image.Image, suffix: str = ".webp") -> str:
        """Write a picture under a fresh name; the oldest of more than KEPT_FILES goes. Returns the path."""
        path = self.path(secrets.token_hex(6) + suffix)
        _write(image, path)
        self._recent.append(path)
        while len(self._recent) > KEPT_FILES:
            self._recent.popleft().unlink(missing_ok=True)
        return str(path)

    def copy(self, upload: str | Path) -> Path:
        """Put an uploaded file here as well, where it is deleted with the others; one that is here already stays.

        Raises:
            GRAError: it is not there any more.
        """
        upload = Path(upload)
        if self.folder in upload.parents and upload.exists():
            return upload
        name = Path(upload.parent.name, upload.name)  # two photos of one name have folders of their own
        if (self.folder / name).exists():
            return self.folder / name
        path = self.path(name)
        try:
            try:
                os.link(upload, path)  # takes no time and no room
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(upload, path)
        except OSError as error:
            raise GRAError(words.GONE) from error
        return path

    def take(self, upload: str | Path) -> Path:
        """As `copy`; Gradio's own copy is then forgotten."""
        path = self.copy(upload)
        if path != Path(upload):
            forget(upload)
        return path

    def clear(self) -> None:
        """Delete all files, and take no more from now on."""
        with self._lock:
            self._closed = True
            self._recent.clear()
            shutil.rmtree(self.folder, ignore_errors=True)

    def clear_later(self, after: float | None = None) -> None:
        """As `clear`, `after` so many seconds; by default PATIENCE."""
        _later(PATIENCE if after is None else after, self.clear)


def is_upload(path: str | Path) -> bool:
    """Whether a file is in the folder in which Gradio keeps uploads."""
    return Path(get_upload_folder()).resolve() in Path(path).resolve().parents


def forget(upload: str | Path, after: float | None = None) -> None:
    """Delete an uploaded file `after` so many seconds (by default PATIENCE), unless it was uploaded anew by then.

    Gradio names the folder of an upload by its content: two visitors who upload the same photo share the path.
    Files that are not uploads are left alone.
    """
    path, root = Path(upload).resolve(), Path(get_upload_folder()).resolve()
    if not is_upload(path):
        return
    with contextlib.suppress(OSError):
        before = path.stat()

        def delete() -> None:
            with contextlib.suppress(OSError):
                if os.path.samestat(before, path.stat()):
                    path.unlink()
                if path.parent != root:
                    path.parent.rmdir()  # where nothing else is in it

        _later(PATIENCE if after is None else after, delete)


def _later(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True  # at the end of the program all files go, see `own_folder`
    timer.start()


def _write(image: Image.Image, path: Path) -> None:
    """WebP without loss (as fast as PNG and a third smaller), JPEG where size matters more."""
    if path.suffix == ".webp":
        image.save(path, lossless=True, quality=0, method=0)
    else:
        image.save(path, quality=93, subsampling=0)
