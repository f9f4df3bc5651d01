"""Files of one visitor that the browser fetches."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from gradio.utils import get_upload_folder
from PIL import Image

from gra_core.errors import GRAError
from gra_core.ui import strings

PATIENCE = 10.0
"""Seconds that files outlive their use, for a browser that is still loading one of them."""

KEPT_FILES = 8
"""Results of the same visitor that stay on disk, so that a browser still loading an older one finds it."""


class TempStore:
    """A folder of pictures that the browser fetches; its name cannot be guessed.

    Args:
        root: the folder that it is made in; by default the one from which Gradio serves files.
    """

    _open: ClassVar[weakref.WeakSet[TempStore]] = weakref.WeakSet()

    def __init__(self, root: str | Path | None = None) -> None:
        self.folder = Path(root or get_upload_folder()) / secrets.token_hex(16)
        self._recent: deque[Path] = deque()
        self._closed, self._lock = False, threading.Lock()
        self._open.add(self)

    @classmethod
    def folders(cls) -> set[Path]:
        """The folders of all shelves that were not cleared."""
        return {store.folder for store in list(cls._open)}

    def path(self, name: str | Path) -> Path:
        """Where a file of that name goes; an older one is deleted. Raises GRAError when the store was cleared."""
        with self._lock:
            if self._closed:
                raise GRAError(strings.EXPIRED)
            path = self.folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def write(self, name: str | Path, save: Callable[[Path], object]) -> Path:
        """Write a file that stays until the store is cleared. It appears under its name when it is whole.

        Args:
            name: of the file; it may contain a folder.
            save: writes to the path that it is given.

        Raises:
            GRAError: the store was cleared.
            OSError: the disk is full.
        """
        path = self.path(name)
        part = path.with_name(f"{secrets.token_hex(4)}{path.suffix}")  # some formats go by the suffix
        try:
            save(part)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return path

    def keep(self, image: Image.Image, name: str) -> str:
        """Write a picture that stays until the store is cleared, or refresh its age; returns the path."""
        path = self.folder / name
        if path.exists():
            os.utime(path)
        else:
            self.write(name, lambda part: _save(image, part))
        return str(path)

    def put(self, image: Image.Image, suffix: str = ".webp") -> str:
        """As `put_file`, a picture under a fresh name."""
        return self.put_file(secrets.token_hex(6) + suffix, lambda part: _save(image, part))

    def put_file(self, name: str, save: Callable[[Path], object]) -> str:
        """As `write`; the oldest of more than KEPT_FILES such files goes. Returns the path."""
        path = self.write(name, save)
        if path in self._recent:
            self._recent.remove(path)
        self._recent.append(path)
        while len(self._recent) > KEPT_FILES:
            self._recent.popleft().unlink(missing_ok=True)
        return str(path)

    def find(self, said: object) -> Path | None:
        """The file whose path a client names, letter for letter; None if there is none."""
        return next((path for path in self.folder.glob("*/*") if str(path) == said), None)

    def copy(self, file: Path) -> Path:
        """Put a file here as well; two of one name get folders of their own, and one that is here already stays.

        Raises:
            GRAError: it is not there any more.
            OSError: the disk is full.
        """
        if self.folder in file.parents and file.exists():
            return file
        name = Path(file.parent.name, file.name)
        if (self.folder / name).exists():
            return self.folder / name

        def link(part: Path) -> None:
            try:
                os.link(file, part)  # takes no time and no room
            except FileNotFoundError as error:
                raise GRAError(strings.GONE) from error
            except OSError:
                shutil.copyfile(file, part)

        return self.write(name, link)

    def clear(self) -> None:
        """Delete all files, and take no more from now on."""
        with self._lock:
            self._closed = True
            self._open.discard(self)
            self._recent.clear()
            shutil.rmtree(self.folder, ignore_errors=True)

    def clear_later(self, after: float | None = None) -> None:
        """As `clear`, `after` so many seconds; by default PATIENCE."""
        later(self.clear, after)


def later(function: Callable[[], None], after: float | None = None) -> None:
    """Call a function `after` so many seconds (by default PATIENCE), unless the program ends before."""
    timer = threading.Timer(PATIENCE if after is None else after, function)
    timer.daemon = True  # at the end of the program all files go, see `temp_dir`
    timer.start()


def _save(image: Image.Image, path: Path) -> None:
    """WebP without loss (as fast as PNG and a third smaller), JPEG where size matters more."""
    if path.suffix == ".webp":
        image.save(path, lossless=True, quality=0, method=0)
    else:
        image.save(path, quality=93, subsampling=0)
