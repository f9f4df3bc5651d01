"""Where the results of a batch go: a folder or a zip. No file is ever there by half, however the program ends.

What was done is noted in a hidden file beside the results, which goes when the batch is complete. A batch that was
killed finds it and does the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, Protocol, Self

from gra_core.errors import GRAError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PROGRESS = "gra-batch"
PART = "gra-part"
"""Endings of the hidden files: what was done, and a file that is being written."""


class Sink(Protocol):
    """Where results go: `FolderSink` or `ZipSink`."""

    def start(self, settings: str, photos: Mapping[str, str]) -> set[str]:
        """Begin, or go on where a batch was interrupted.

        Args:
            settings: text that is another one for other settings.
            photos: results to be written -> text that is another one for another photo.

        Returns:
            Results that are there already, of the same settings and photos.
        """

    def write(self, name: str, content: bytes, photo: str = "") -> None:
        """Store a file, made of `photo`; the name may contain folders."""

    def report(self, name: str, text: str) -> None:
        """Store a list beside the results, or a newer state of it; without text there is none. Never raises OSError."""


class FolderSink:
    """Results as files in a folder, which is made if need be."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises OSError."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._progress = _Progress(folder / f".{PROGRESS}")

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_error: object) -> None:
        """Written files stay. After an error, so does the note of it, for the next time."""
        self._progress.end(finished=error_type is None)

    def start(self, settings: str, photos: Mapping[str, str]) -> set[str]:
        """As of `Sink`. Raises GRAError when another batch writes there."""
        done = self._progress.start(settings, photos)
        for part in self.folder.rglob(f".*.{PART}"):  # of a batch that was killed
            part.unlink(missing_ok=True)
        return {name for name in done if (self.folder / name).is_file()}

    def write(self, name: str, content: bytes, photo: str = "") -> None:
        """Store a file. Raises OSError, and GRAError for a name that leads out of the folder."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise GRAError(f"{PureWindowsPath(name).name} would be written outside of the folder for the results.")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{PART}")
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        self._progress.add(name, photo)

    def report(self, name: str, text: str) -> None:
        """As of `Sink`. Where the name is taken by a folder, the list gets another one."""
        path = self.folder / name
        for place in (path, path.with_name(f"{path.stem}-2{path.suffix}")):
            with contextlib.suppress(OSError):
                if text:
                    self.write(place.name, text.encode("utf-8", "backslashreplace"))
                else:
                    place.unlink(missing_ok=True)
                return


class ZipSink:
    """Results as a zip, which appears under its name when it is complete."""

    def __init__(self, path: Path) -> None:
        """Choose the place; files beside `path` are written from `start` on."""
        self.path = path
        self._part = path.with_name(f".{path.name}.{PART}")
        self._progress = _Progress(path.with_name(f".{path.name}.{PROGRESS}"))
        self._file: BinaryIO | None = None
        self._zip: zipfile.ZipFile | None = None
        self._reports: dict[str, str] = {}

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_error: object) -> None:
        """Finish the zip. After an error what was done waits beside it for the next time."""
        finished = False
        try:
            if self._zip is not None:
                with contextlib.nullcontext() if error_type is None else contextlib.suppress(OSError):
                    for name, text in self._reports.items() if error_type is None else ():
                        self._zip.writestr(name, text.encode("utf-8", "backslashreplace"))
                    self._zip.close()
                self._file.close()
                if error_type is None:
                    self._part.replace(self.path)
                finished = error_type is None or not self._zip.filelist
        finally:
            self._progress.end(finished=finished)
            if finished:
                self._part.unlink(missing_ok=True)

    def start(self, settings: str, photos: Mapping[str, str]) -> set[str]:
        """As of `Sink`. Raises OSError, and GRAError when another batch writes there."""
        done = self._progress.start(settings, photos)
        self._part.touch()
        self._file = self._part.open("r+b")
        kept = []
        for entry in _entries(self._file):
            if entry.filename not in done:
                break
            kept.append(entry)
        self._file.truncate(kept[-1].header_offset + kept[-1].room if kept else 0)
        self._zip = zipfile.ZipFile(self._file, "a", zipfile.ZIP_STORED)  # pictures are compressed already
        for entry in kept:
            self._zip.filelist.append(entry)
            self._zip.NameToInfo[entry.filename] = entry
        return {entry.filename for entry in kept}

    def write(self, name: str, content: bytes, photo: str = "") -> None:
        """Store a file. Raises OSError, and GRAError for a name that leads out of the folder it is unpacked to."""
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts or "\\" in name:
            raise GRAError(f"{path.name} would be unpacked outside of the folder for the results.")
        start = self._zip.start_dir
        try:
            self._zip.writestr(name, content)
            self._file.flush()
        except OSError:  # what is there stays whole
            self._zip.filelist[:] = [entry for entry in self._zip.filelist if entry.header_offset < start]
            self._zip.NameToInfo.pop(name, None)
            self._zip.start_dir = start
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        self._progress.add(name, photo)

    def report(self, name: str, text: str) -> None:
        """As of `Sink`. It is written when the zip is complete."""
        if text:
            self._reports[name] = text
        else:
            self._reports.pop(name, None)


class _Entry(zipfile.ZipInfo):
    """A file in an unfinished zip, with the bytes that it takes there."""

    __slots__ = ("room",)


def _entries(file: BinaryIO) -> Iterator[_Entry]:
    """The whole files in a zip that lacks its end, as `ZipSink` writes it."""
    start = 0
    file.seek(0)
    while len(head := file.read(30)) == 30 and head.startswith(b"PK\x03\x04"):
        flags, method, _, _, checksum, size, _, name_length, extra_length = struct.unpack("<6xHHHHIIIHH", head)
        name = file.read(name_length).decode("utf-8", "replace")
        file.seek(extra_length, os.SEEK_CUR)
        content = file.read(size)
        if method != zipfile.ZIP_STORED or len(content) != size or zlib.crc32(content) != checksum:
            return
        entry = _Entry(name)
        entry.flag_bits, entry.CRC, entry.file_size, entry.compress_size = flags, checksum, size, size
        entry.header_offset, entry.room = start, file.tell() - start
        yield entry
        start = file.tell()


class _Progress:
    """The note of what was done: a line of JSON with the settings, then one for each result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def start(self, settings: str, photos: Mapping[str, str]) -> set[str]:
        """Read the note of the same settings, or begin a new one: results that were made of the same photos."""
        self._file = self.path.open("a+b")
        if not _lock(self._file):
            self._file.close()
            self._file = None
            raise GRAError("Another batch writes its results to the same place. Wait for it, or choose another place.")
        head, done = json.dumps({"settings": settings}).encode() + b"\n", {}
        self._file.seek(0)
        if self._file.readline() == head:
            good = len(head)
            for line in self._file:
                with contextlib.suppress(ValueError):  # the last one may lack its end
                    name, photo = json.loads(line)
                    done[name] = photo
                    good += len(line)
            self._file.truncate(good)
        else:
            self._file.truncate(0)
            self._file.write(head)
            self._file.flush()
        return {name for name, photo in done.items() if photos.get(name) == photo}

    def add(self, name: str, photo: str) -> None:
        """Note a result."""
        if photo and self._file:
            self._file.write(json.dumps([name, photo]).encode() + b"\n")
            self._file.flush()

    def end(self, *, finished: bool) -> None:
        """The batch is over: the note goes when it is finished."""
        if self._file is not None:
            self._file.close()
            if finished:
                self.path.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool:
    """Lock an open file, unless another process has. The system unlocks it however the program ends."""
    try:
        if sys.platform == "win32":
            file.seek(2**30)  # a place that nobody writes to
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
