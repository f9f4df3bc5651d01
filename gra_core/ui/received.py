"""Files that visitors sent. Only this module turns what a client says into a path.

Each upload is moved into a folder whose name cannot be guessed, and the client is told that path. A path that a client
names later must be one of those, letter for letter: nothing is joined, resolved or opened before that is known.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gradio.utils import get_upload_folder

from gra_core.errors import GRAError
from gra_core.ui import strings
from gra_core.ui.temp_store import TempStore, later

UNUSED = 40.0
"""Seconds for which an upload waits for the request that names it: that follows at once."""

FRESH = 600.0
"""Seconds for which it can be used, from each request that names it."""

VISITOR_BYTES = 2_000_000_000
"""Disk that the uploads of one address may take, those of its open pages included."""

TOTAL_SHARE = 0.5
"""Share of the disk that was free at the start which all files of all visitors may take."""

RESERVE = 200_000_000
"""Bytes of the disk that uploads leave free."""

STALE = 120.0
"""Seconds after the last write from which on a file that belongs to nobody is left over from a broken upload."""


class StorageFullError(GRAError):
    """There is no room on disk for what a visitor sends."""


@dataclass
class Sent:
    """An upload.

    Attributes:
        path: where it lies, and what the client was told.
        address: of the client.
        size: in bytes.
        until: when it goes, by the clock of `Received`.
        copies: where else it lies: in the store of a visit. It counts as long as any of these is there.
    """

    path: Path
    address: str
    size: int
    until: float
    copies: list[Path] = field(default_factory=list)

    @property
    def exists(self) -> bool:
        """Whether it takes room on disk."""
        return any(map(os.path.lexists, (self.path, *self.copies)))


class Received:
    """Uploads by the paths that clients were told. Safe to use from several threads.

    Args:
        visitor_bytes: room for the uploads of one address.
        total_bytes: room for all files of all visitors; by default TOTAL_SHARE of what is free.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        visitor_bytes: int = VISITOR_BYTES,
        total_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.visitor_bytes, self.total_bytes, self.clock = visitor_bytes, total_bytes, clock
        self._sent: dict[str, Sent] = {}
        self._arriving: dict[object, tuple[str, int]] = {}
        self._lock = threading.RLock()

    # --- room ------------------------------------------------------------------------------------------------------

    def room(self, address: str) -> int:
        """Bytes that a client may still send; at least 0. What arrives at the moment counts as if it were here."""
        folder = _folder()
        free = shutil.disk_usage(folder).free - RESERVE
        used = sum(size for _, size in _files(folder))
        if self.total_bytes is None:
            self.total_bytes = round(TOTAL_SHARE * max(free + used, 0))
        with self._lock:
            arriving = sum(size for _, size in self._arriving.values())
            own = sum(size for sender, size in self._arriving.values() if sender == address)
            own += sum(sent.size for sent in self._sent.values() if sent.address == address and sent.exists)
        return max(0, min(self.visitor_bytes - own, self.total_bytes - used - arriving, free - arriving))

    @contextlib.contextmanager
    def arriving(self, address: str, size: int) -> Iterator[int]:
        """Keeps room for an upload of `size` bytes while it arrives; yields how many it may have at most.

        Raises:
            StorageFullError: there is not so much room.
        """
        token = object()
        with self._lock:
            room = self.room(address)
            if size > room or not room:
                raise StorageFullError(strings.NO_ROOM)
            self._arriving[token] = address, size
        try:
            yield room
        finally:
            with self._lock:
                del self._arriving[token]

    # --- from a client's words to a path ---------------------------------------------------------------------------

    def add(self, upload: str | Path, address: str = "") -> Path:
        """Take over a file that has just arrived in Gradio's folder; returns the path to tell the client.

        Raises:
            OSError: the file is not there.
        """
        upload = Path(upload)
        folder = _folder() / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        path = folder / upload.name
        upload.rename(path)
        with contextlib.suppress(OSError):
            upload.parent.rmdir()  # where nothing else is in it
        with self._lock:
            self._sent[str(path)] = Sent(path, address, path.stat().st_size, self.clock() + UNUSED)
        return path

    def use(self, said: object) -> bool:
        """Whether a client names one of its uploads, which then stays FRESH."""
        with contextlib.suppress(GRAError):
            self._find(said).until = self.clock() + FRESH
            return True
        return False

    def path(self, said: object) -> Path:
        """The upload that a client names.

        Args:
            said: what came from the client: text, or a file as Gradio hands it over.

        Raises:
            GRAError: there is no such upload, or it is not here any more.
        """
        return self._find(said).path

    def take(self, said: object, store: TempStore) -> Path:
        """Put the upload that a client names in a store, where it lasts as long as that; the upload itself goes soon.

        Raises:
            GRAError: as `path`.
        """
        sent = self._find(said)
        known = [path for path in sent.copies if store.folder in path.parents and path.exists()]
        if known:  # a page may tell of the old place for a while
            return known[0]
        path = store.copy(sent.path)
        with self._lock:
            sent.copies.append(path)
        later(lambda: self._remove(sent))  # a browser may still be loading it
        return path

    def discard(self, said: object, after: float = 0.0) -> None:
        """Delete an upload that a client names, in so many seconds; what is no upload is left alone."""
        with contextlib.suppress(GRAError):
            sent = self._find(said)
            later(lambda: self._remove(sent), after)

    def _find(self, said: object) -> Sent:
        text = said.get("path") if isinstance(said, dict) else getattr(said, "path", said)
        with self._lock:
            sent = self._sent.get(text) if isinstance(text, str) else None
        if sent is None or not sent.exists:
            raise GRAError(strings.GONE)
        return sent

    # --- what nobody needs any more --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Delete what nobody can ask for: uploads that are no longer fresh, and leftovers, whoever wrote them."""
        with self._lock:
            for sent in [sent for sent in self._sent.values() if sent.until < self.clock()]:
                self._remove(sent)
            for key in [key for key, sent in self._sent.items() if not sent.exists]:
                del self._sent[key]
            known = {sent.path.parent for sent in self._sent.values()}
        known |= TempStore.folders()
        stale = time.time() - STALE
        for entry in Path(get_upload_folder()).iterdir():
            if entry not in known and all(written < stale for written, _ in _files(entry)):
                with contextlib.suppress(OSError):
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    @staticmethod
    def _remove(sent: Sent) -> None:
        shutil.rmtree(sent.path.parent, ignore_errors=True)


def _folder() -> Path:
    """Where Gradio, and so this program, keeps files."""
    folder = Path(get_upload_folder())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _files(place: Path) -> Iterator[tuple[float, int]]:
    """Time of the last change and size of each file in or below a place, and of the place itself; files may vanish."""
    places = [place]
    while places:
        place = places.pop()
        with contextlib.suppress(OSError):
            about = place.lstat()
            yield about.st_mtime, about.st_size
            if place.is_dir() and not place.is_symlink():
                places += place.iterdir()
