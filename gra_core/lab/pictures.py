"""Folders of pictures to measure on."""

from pathlib import Path

from gra_core.archives import SUFFIXES, is_photo
from gra_core.errors import UnreadableImageError


def picture_files(folder: str | Path) -> list[Path]:
    """Picture files in a folder (not below it), sorted by name; hidden files are left out.

    Raises:
        UnreadableImageError: there is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UnreadableImageError(f"There is no directory {folder}.")
    paths = sorted(path for path in folder.iterdir() if is_photo(path.name) and path.is_file())
    if not paths:
        kinds = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
        raise UnreadableImageError(f"There are no pictures in {folder} ({kinds}).")
    return paths
