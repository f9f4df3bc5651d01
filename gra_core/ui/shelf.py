"""Files of one visitor that the browser fetches."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections import deque
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image

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

    def path(self, name: str) -> Path:
        """Where a file of that name goes; an older one is deleted."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / name
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

    def clear(self, after: float = 0.0) -> None:
        """Delete all files, `after` so many seconds."""
        if after:
            timer = threading.Timer(after, self.clear)
            timer.daemon = True  # at the end of the program Gradio deletes what it served
            timer.start()
            return
        self._recent.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _write(image: Image.Image, path: Path) -> None:
    """WebP without loss (as fast as PNG and a third smaller), JPEG where size matters more."""
    if path.suffix == ".webp":
        image.save(path, lossless=True, quality=0, method=0)
    else:
        image.save(path, quality=93, subsampling=0)
