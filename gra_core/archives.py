"""Reads zips that people bring, in a worker of `gra_core.sandbox`."""

import contextlib
import json
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from gra_core.errors import UnreadableImageError, refusing
from gra_core.sandbox import Shared

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("avif", "avifs", "heic", "heics", "heif", "heifs", "hif"),
    )
)
"""Files with these suffixes, all that the formats of `gra_core.decoding` go by, are taken for photos; others in a
folder or zip are left out."""

_PART_BYTES = 2**20
_NAME_IS_UTF8 = 0x800
"""Flag of a file in a zip (APPNOTE 4.4.4)."""


def is_photo(name: str) -> bool:
    """Whether a file is taken for a photo, by its name with folders."""
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file is none that people know of, by its name with folders."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def list_photos(source: Shared, name: str, most: int) -> tuple[int, list[bytes]]:
    """The photos in a zip, and what else is in it.

    Args:
        source: the zip.
        name: what it is called in messages.
        most: how many of them are described.

    Returns:
        How many photos there are; for each its place in the zip, its name, checksum and size in bytes, and the names of
        files that are no photos, as JSON.

    Raises:
        UnreadableImageError: it is not a zip.
    """
    wrong = f"{name} is not a zip that can be opened. Make it again."
    with refusing(UnreadableImageError, wrong), _opened(source) as archive:
        entries = [(place, entry) for place, entry in enumerate(archive.infolist()) if not entry.is_dir()]
        photos = [(place, e.filename, e.CRC, e.file_size) for place, e in entries if is_photo(e.filename)]
        others = [e.filename for _, e in entries if not is_photo(e.filename) and not is_hidden(e.filename)]
        listed = sorted(photos, key=lambda photo: photo[1])[:most], sorted(others)[:most]
        return len(photos), [json.dumps(listed).encode()]


def unpack(source: Shared, target: Shared, name: str, place: int) -> None:
    """Unpack one file of a zip into `target`, which is as large as the zip says that the file is.

    Raises:
        UnreadableImageError: it is damaged, encrypted, packed in a way that is not known, or of another size.
    """
    with refusing(UnreadableImageError, f"{name} cannot be unpacked."):
        memory = target.map()
        with _opened(source) as archive, archive.open(archive.infolist()[place]) as packed:
            start = 0
            while part := packed.read(_PART_BYTES):
                memory[start : start + len(part)] = part
                start += len(part)
        if start != target.size:
            raise ValueError("of another size")


@contextlib.contextmanager
def _opened(source: Shared) -> Iterator[zipfile.ZipFile]:
    """A zip. Names in it that are not the UTF-8 that they say to be are read as CP437, like old ones."""
    with contextlib.ExitStack() as stack:
        try:
            archive = zipfile.ZipFile(stack.enter_context(source.open()))
        except UnicodeDecodeError:
            place = {"fileno": -1, "tagname": source.name} if source.name else {"fileno": source.descriptor}
            content = stack.enter_context(_Content(**place, length=source.size, access=mmap.ACCESS_COPY))
            end = content.rfind(b"PK\x05\x06")
            (length,) = struct.unpack_from("<I", content, end + 12)
            _mend_names(content, end - length, end)
            archive = zipfile.ZipFile(content)
        yield stack.enter_context(archive)


class _Content(mmap.mmap):
    """A file as memory of our own, which can be written to, and as a stream."""

    def seekable(self) -> bool:
        """As of streams."""
        return True


def _mend_names(content: mmap.mmap, place: int, end: int) -> None:
    """Take the flag from files in a zip, in its directory and before their content, whose names are no UTF-8."""
    while place + 46 <= end and content[place : place + 4] == b"PK\x01\x02":
        (flags,) = struct.unpack_from("<H", content, place + 8)
        name, extra, comment = struct.unpack_from("<HHH", content, place + 28)
        try:
            content[place + 46 : place + 46 + name].decode()
        except UnicodeDecodeError:
            struct.pack_into("<H", content, place + 8, flags & ~_NAME_IS_UTF8)
            (local,) = struct.unpack_from("<I", content, place + 42)
            if content[local : local + 4] == b"PK\x03\x04":
                struct.pack_into("<H", content, local + 6, flags & ~_NAME_IS_UTF8)
        place += 46 + name + extra + comment
