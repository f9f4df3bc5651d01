"""The same edits for many photos: a folder or a zip in, a folder or a zip out.

Photos are read, edited and written one by one, so that memory does not grow with their number, and one that cannot be
edited is reported while the others go on. A batch that was interrupted, however, goes on where it was when it is
started again with the same photos and settings.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from gra_core import sandbox
from gra_core.alignment import FaceAligner
from gra_core.archives import SUFFIXES, is_hidden, is_photo
from gra_core.compositing import draw_result
from gra_core.errors import GRAError, UnreadableImageError
from gra_core.export import FORMATS, PROGRAM, check_size, describe, harmless, result_name, save_picture
from gra_core.images import Photo, read_photo
from gra_core.results import FolderSink, Sink, ZipSink
from gra_core.sandbox import SandboxError, Shared

if TYPE_CHECKING:
    from gra_core.directions.registry import EditDirection
    from gra_core.editor import PortraitEditor

__all__ = [
    "SUFFIXES",
    "FolderSink",
    "Item",
    "Items",
    "Outcome",
    "Sink",
    "ZipSink",
    "check_apart",
    "edit_batch",
    "list_items",
]

MAX_PHOTOS = 1000
MAX_FILE_BYTES = 200_000_000
"""Largest photo that is unpacked from a zip: a small zip may hold a file that fills the memory."""

ZIP_SECONDS = 8.0
ZIP_BYTES = 300_000_000
"""How long reading a zip may take at a time, and how much memory, besides what is unpacked."""

MAX_FOLDERS = 8
MAX_FOLDER_NAME = 40
"""Folders of results are no deeper, and their names no longer."""

REPORT = "not-edited.txt"
"""Name of the list of photos that could not be edited, beside the results."""

NOTES = "notes.txt"
"""Name of the list of what was done to photos that were edited, beside the results."""

LEFT_OUT = "It is left out: its name is not that of a photo."

UNEXPECTED = "Something went wrong with this photo."


@dataclass(frozen=True)
class Item:
    """A photo of a batch.

    Attributes:
        name: with folders, as it was brought: not a path to write to.
        read: gets at it, for `load_image`.
        mark: changes with the photo's content, as far as that can be told without reading it.
    """

    name: str
    read: Callable[[], str | Path | bytes | Shared]
    mark: str = ""


class Items(list[Item]):
    """The photos of a batch.

    Attributes:
        left_out: names of other files, with folders.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left_out: list[str] = []


@dataclass(frozen=True)
class Outcome:
    """Outcome of one photo.

    Attributes:
        done: photos finished so far, this one included.
        total: photos in the batch.
        name: the photo's name.
        error: why it could not be edited, in a sentence; None when it was.
        notes: sentences on what was done to the photo.
    """

    done: int
    total: int
    name: str
    error: str | None
    notes: tuple[str, ...] = ()


def list_items(sources: Sequence[Path]) -> Items:
    """The photos in folders (and below them), zips, and single files, in order of their names.

    Raises:
        UnreadableImageError: a source does not exist, a zip is damaged, there is no photo, or there are more than
            MAX_PHOTOS.
    """
    items = Items()
    for source in sources:
        if source.is_dir():
            files = [path for path in sorted(source.rglob("*")) if path.is_file()]
            names = {str(path.relative_to(source)): path for path in files}
            items += [_file_item(path, name) for name, path in names.items() if is_photo(name)]
            items.left_out += [name for name in names if not is_photo(name) and not is_hidden(name)]
        elif source.suffix.lower() == ".zip" and source.is_file():
            photos, others = _zip_items(source)
            items += photos
            items.left_out += others
        elif source.is_file():
            items.append(_file_item(source, source.name))
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
    """Edit the largest face of each photo; yields an outcome after each.

    Each result is written as soon as it is done, and so are REPORT and NOTES when there is something to say; those of
    an earlier batch go.

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
    names = _result_names(items, strengths, suffix)
    marks = [f"{item.name}/{item.mark}" for item in items]
    settings = _mark(strengths, edits, whole_photo=whole_photo, suffix=suffix)
    ready = sink.start(settings, dict(zip(names, marks, strict=True)))
    left_out = getattr(items, "left_out", ())
    failures, notes = [f"{_in_one_line(name)}: {LEFT_OUT}\n" for name in left_out], []
    sink.report(REPORT, "".join(failures))
    sink.report(NOTES, "")
    for done, (item, name, mark) in enumerate(zip(items, names, marks, strict=True), start=1):
        error, photo = None, None
        if name not in ready:
            try:
                photo, content = _edit(editor, aligner, item, strengths, edits, whole_photo=whole_photo, suffix=suffix)
            except GRAError as reason:
                error = str(reason)
            except Exception as reason:  # one bad file never stops the rest
                error = UNEXPECTED
                if unexpected:
                    unexpected(reason)
            else:
                try:
                    sink.write(name, content, mark)
                except GRAError as reason:
                    error = str(reason)
        said = photo.notes if photo and not error else ()
        if error:
            failures.append(f"{_in_one_line(item.name)}: {error}\n")
            sink.report(REPORT, "".join(failures))
        if said:
            notes.append(f"{_in_one_line(item.name)}: {' '.join(said)}\n")
            sink.report(NOTES, "".join(notes))
        yield Outcome(done, len(items), item.name, error, said)


def check_apart(sources: Sequence[Path], output: Path) -> None:
    """Make sure that results do not fall among the photos that they are made of.

    Raises:
        GRAError: the output is one of the sources, or a folder in one.
    """
    output = output.resolve()
    for source in map(Path.resolve, sources):
        if output == source or (source.is_dir() and output.suffix.lower() != ".zip" and source in output.parents):
            raise GRAError(f"{output.name} is, or lies in, what is to be edited. Write the results somewhere else.")


def _edit(
    editor: PortraitEditor,
    aligner: FaceAligner,
    item: Item,
    strengths: Mapping[str, float],
    edits: Mapping[str, EditDirection],
    *,
    whole_photo: bool,
    suffix: str,
) -> tuple[Photo, bytes]:
    photo = read_photo(item.read())
    if whole_photo:
        check_size(photo.image.size, suffix)
    photo, faces = aligner.find(photo)
    aligned = aligner.align(photo.image, faces[0])
    output = editor.render(editor.invert(aligned.image), strengths, edits)
    result = draw_result(photo, aligned, output, faces, whole_photo=whole_photo)
    buffer = io.BytesIO()
    save_picture(result, buffer, suffix, describe(strengths, edits))
    return photo, buffer.getvalue()


def _file_item(path: Path, name: str) -> Item:
    about = path.stat()
    return Item(name, lambda: path, f"{about.st_size}-{about.st_mtime_ns}")


def _zip_items(path: Path) -> tuple[list[Item], list[str]]:
    wrong = f"{path.name} is not a zip that can be opened. Make it again."
    arguments = {"name": path.name, "most": MAX_PHOTOS}
    count, content = _ask_zip("list_photos", path, [], arguments, wrong, memory=0)
    photos, others = json.loads(content)
    if count > len(photos):
        raise UnreadableImageError(f"There are {count} photos in {path.name}. Take {MAX_PHOTOS} or fewer at a time.")
    items = [
        Item(name, lambda place=place, name=name, size=size: _unpack(path, place, name, size), f"{size}-{checksum}")
        for place, name, checksum, size in photos
    ]
    return items, others


def _unpack(path: Path, place: int, name: str, size: int) -> Shared:
    name = _in_one_line(PureWindowsPath(name).name)
    if size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"{name} is too large to unpack.")
    if size == 0:
        raise UnreadableImageError(f"{name} is empty. Choose another photo.")
    target = Shared.memory(size)
    try:
        _ask_zip("unpack", path, [target], {"name": name, "place": place}, f"{name} cannot be unpacked.", memory=size)
    except BaseException:
        target.close()
        raise
    return target


def _ask_zip(
    function: str, path: Path, targets: list[Shared], arguments: dict, wrong: str, *, memory: int
) -> tuple[object, bytes]:
    """Result of a function of `gra_core.archives` for a zip; `wrong` is the sentence where nothing comes of it."""
    try:
        with Shared.file(path) as source:
            return sandbox.call(
                f"gra_core.archives:{function}",
                [source, *targets],
                arguments,
                seconds=ZIP_SECONDS,
                memory=ZIP_BYTES + memory + source.size,
                output=ZIP_BYTES,
            )
    except (OSError, SandboxError) as error:
        raise UnreadableImageError(wrong) from error


def _mark(strengths: Mapping[str, float], edits: Mapping[str, EditDirection], *, whole_photo: bool, suffix: str) -> str:
    """Text that is another one for other settings."""
    settings = json.dumps([PROGRAM, sorted(strengths.items()), whole_photo, suffix])
    mark = hashlib.sha256(settings.encode())
    for key in sorted(strengths):
        if key in edits:
            mark.update(edits[key].vector.tobytes())
    return mark.hexdigest()


def _result_names(items: Sequence[Item], strengths: Mapping[str, float], suffix: str) -> list[str]:
    """Where each photo's result goes: in the photo's folder, named after photo and settings, each name once."""
    taken: set[str] = set()
    names = []
    for item in items:
        *folders, file = result_parts(item.name)
        stem, number = Path(file).stem, 1
        while True:
            name = "/".join([*folders, result_name(stem, strengths, suffix)])
            if _alike(name) not in taken:
                break
            number += 1
            stem = f"{Path(file).stem[:34]}-{number}"
        taken.add(_alike(name))
        names.append(name)
    return names


def _alike(name: str) -> str:
    """A key that is equal for names that some system takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def result_parts(name: str) -> list[str]:
    """Folders and file name of a photo, as they can be written on every system and below any folder.

    What a name begins with that leads elsewhere (`/`, `C:`, `//server/share`), `..`, and characters and names that some
    system does not take are dropped or replaced. The file name comes last and is never missing.
    """
    path = PureWindowsPath(name)  # takes / and \\ alike
    parts = [harmless(part) for part in (path.parts[1:] if path.anchor else path.parts) if part not in (".", "..")]
    *folders, file = [part for part in parts if part] or ["portrait"]
    return [*(_no_result(folder[:MAX_FOLDER_NAME].rstrip(". ")) for folder in folders[-MAX_FOLDERS:]), file]


def _no_result(folder: str) -> str:
    """A folder's name that no result has, so that both can lie in one folder."""
    stem, dot, suffix = folder.rpartition(".")
    return f"{stem}-{suffix}" if dot and f".{suffix.lower()}" in {*FORMATS, Path(REPORT).suffix} else folder


def _in_one_line(name: str) -> str:
    return "".join(letter if letter.isprintable() or "\ud800" <= letter <= "\udfff" else " " for letter in name)
