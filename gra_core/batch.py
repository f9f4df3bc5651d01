"""The same edits for many photos: a folder or a zip in, a folder or a zip out.

Photos are read, edited and written one by one, so that memory does not grow with their number, and one that cannot be
edited is reported while the others go on.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, Self

from PIL import Image

from gra_core.alignment import FaceAligner, paste_back
from gra_core.errors import GRAError, UnreadableImageError
from gra_core.export import describe, result_name, save_picture
from gra_core.images import load_image

if TYPE_CHECKING:
    from gra_core.directions.registry import EditDirection
    from gra_core.editor import PortraitEditor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".gif"})
"""Files with these suffixes are taken for photos; others in a folder or zip are left out."""

MAX_PHOTOS = 1000
MAX_FILE_BYTES = 200_000_000
"""Largest photo that is unpacked from a zip: a small zip may hold a file that fills the memory."""

REPORT = "not-edited.txt"
"""Name of the list of photos that could not be edited, beside the results."""

UNEXPECTED = "Something went wrong with this photo."


@dataclass(frozen=True)
class Item:
    """A photo of a batch: its name, with folders, and a way to get at it."""

    name: str
    read: Callable[[], str | Path | bytes]


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        done: photos finished so far, this one included.
        total: photos in the batch.
        name: the photo's name.
        error: why it could not be edited, in a sentence; None when it was.
    """

    done: int
    total: int
    name: str
    error: str | None


class Sink(Protocol):
    """Where results go: `FolderSink` or `ZipSink`."""

    def write(self, name: str, content: bytes) -> None:
        """Store a file; the name may contain folders."""


def list_items(sources: Sequence[Path]) -> list[Item]:
    """The photos in folders (and below them), zips, and single files, in order of their names.

    Raises:
        UnreadableImageError: a source does not exist, a zip is damaged, there is no photo, or there are more than
            MAX_PHOTOS.
    """
    items: list[Item] = []
    for source in sources:
        if source.is_dir():
            items += [
                Item(str(path.relative_to(source)), lambda path=path: path)
                for path in sorted(source.rglob("*"))
                if path.is_file() and _is_photo(path.relative_to(source).as_posix())
            ]
        elif source.suffix.lower() == ".zip":
            items += _zip_items(source)
        elif source.is_file():
            items.append(Item(source.name, lambda path=source: path))
        else:
            raise UnreadableImageError(f"{source} does not exist. Give a folder, a zip or photos.")
    if not items:
        raise UnreadableImageError("There are no photos in it. JPEG, PNG, WebP, HEIC and others are taken.")
    if len(items) > MAX_PHOTOS:
        raise UnreadableImageError(f"There are {len(items)} photos in it. Take {MAX_PHOTOS} or fewer at a time.")
    return items


def edit_batch(
    editor: PortraitEditor,
    aligner: FaceAligner,
    items: Sequence[Item],
    strengths: Mapping[str, float],
    sink: Sink,
    *,
    whole_photo: bool = True,
    suffix: str = ".png",
    edits: Mapping[str, EditDirection] | None = None,
    unexpected: Callable[[Exception], None] | None = None,
) -> Iterator[Outcome]:
    """Edit the largest face of each photo; yields an outcome after each, and writes REPORT at the end if need be.

    Args:
        editor: with its weights.
        aligner: finds the faces.
        items: the photos.
        strengths: slider values by edit key, for every photo.
        sink: where the results go.
        whole_photo: write the whole photo, else the aligned face of 1024 px.
        suffix: format of the results, one of `export.FORMATS`.
        edits: the edits that `strengths` names; the editor's own by default.
        unexpected: told of errors that are not the photo's.

    Raises:
        OSError: the sink cannot be written to.
    """
    edits = editor.edits if edits is None else edits
    taken: set[str] = set()
    failures = []
    for done, item in enumerate(items, start=1):
        error = None
        try:
            content = _edit(editor, aligner, item, strengths, edits, whole_photo=whole_photo, suffix=suffix)
        except GRAError as reason:
            error = str(reason)
        except Exception as reason:  # one bad file never stops the rest
            error = UNEXPECTED
            if unexpected:
                unexpected(reason)
        else:
            sink.write(_free_name(item.name, strengths, suffix, taken), content)
        if error:
            failures.append(f"{item.name}: {error}\n")
        if done == len(items) and failures:
            sink.write(REPORT, "".join(failures).encode())
        yield Outcome(done, len(items), item.name, error)


class FolderSink:
    """Results as files in a folder, which is made if need be."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises OSError."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing is left to do: each file was written whole."""

    def write(self, name: str, content: bytes) -> None:
        """Store a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class ZipSink:
    """Results as a zip, which appears under its name when it is complete."""

    def __init__(self, path: Path) -> None:
        """Start the zip beside `path`. Raises OSError."""
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._zip = zipfile.ZipFile(self._part, "w", zipfile.ZIP_STORED)  # pictures are compressed already

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_error: object) -> None:
        """Finish the zip, or leave nothing behind after an error."""
        self._zip.close()
        if error_type is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Store a file."""
        self._zip.writestr(name, content)


def _edit(
    editor: PortraitEditor,
    aligner: FaceAligner,
    item: Item,
    strengths: Mapping[str, float],
    edits: Mapping[str, EditDirection],
    *,
    whole_photo: bool,
    suffix: str,
) -> bytes:
    photo = load_image(item.read())
    aligned = aligner.align(photo, aligner.detect(photo)[0])
    result: Image.Image = editor.edit(editor.invert(aligned.image), strengths, edits)
    if whole_photo:
        result = paste_back(photo, result, aligned)
    buffer = io.BytesIO()
    save_picture(result, buffer, suffix, describe(strengths, edits))
    return buffer.getvalue()


def _zip_items(path: Path) -> list[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        raise UnreadableImageError(f"{path.name} is not a zip that can be opened. Make it again.") from error
    return [Item(name, lambda name=name: _unpack(path, name)) for name in names if _is_photo(name)]


def _unpack(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise UnreadableImageError(f"{PurePosixPath(name).name} cannot be unpacked.") from error
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"{PurePosixPath(name).name} is too large to unpack.")
    return content


def _is_photo(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _free_name(name: str, strengths: Mapping[str, float], suffix: str, taken: set[str]) -> str:
    """Name of a result: in the photo's folder, after photo and settings, and not one that another photo has."""
    path = PurePosixPath(name.replace("\\", "/"))
    folders = [part for part in path.parts[:-1] if part not in ("..", "/") and not part.endswith(":")]
    stem, number = path.stem, 1
    while True:
        file = result_name(stem, strengths, suffix)
        candidate = "/".join([*folders, file])
        if candidate.lower() not in taken:
            taken.add(candidate.lower())
            return candidate
        number += 1
        stem = f"{path.stem[:34]}-{number}"
