"""Reads zips that people bring, in a worker of `gra_core.sandbox`."""

import json
import zipfile
from pathlib import PurePosixPath

from gra_core.errors import UnreadableImageError, refusing
from gra_core.sandbox import Shared

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".gif"})
"""Files with these suffixes are taken for photos; others in a folder or zip are left out."""

_PART_BYTES = 2**20


def is_photo(name: str) -> bool:
    """Whether a file is taken for a photo, by its name with folders."""
    path = PurePosixPath(name.replace("\\", "/"))
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def list_photos(source: Shared, name: str, most: int) -> tuple[int, list[bytes]]:
    """The photos in a zip.

    Args:
        source: the zip.
        name: what it is called in messages.
        most: how many of them are described.

    Returns:
        How many there are; for each its place in the zip, its name, checksum and size in bytes, as JSON.

    Raises:
        UnreadableImageError: it is not a zip.
    """
    wrong = f"{name} is not a zip that can be opened. Make it again."
    with refusing(UnreadableImageError, wrong), source.open() as file, zipfile.ZipFile(file) as archive:
        entries = enumerate(archive.infolist())
        photos = [
            (place, entry.filename, entry.CRC, entry.file_size)
            for place, entry in entries
            if not entry.is_dir() and is_photo(entry.filename)
        ]
        return len(photos), [json.dumps(sorted(photos, key=lambda photo: photo[1])[:most]).encode()]


def unpack(source: Shared, target: Shared, name: str, place: int) -> None:
    """Unpack one file of a zip into `target`, which is as large as the zip says that the file is.

    Raises:
        UnreadableImageError: it is damaged, encrypted, packed in a way that is not known, or of another size.
    """
    with refusing(UnreadableImageError, f"{name} cannot be unpacked."):
        memory = target.map()
        with source.open() as file, zipfile.ZipFile(file) as archive, archive.open(archive.infolist()[place]) as packed:
            start = 0
            while part := packed.read(_PART_BYTES):
                memory[start : start + len(part)] = part
                start += len(part)
        if start != target.size:
            raise ValueError("of another size")
