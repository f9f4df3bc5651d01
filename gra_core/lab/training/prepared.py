"""The prepared set: what `train prepare` writes and all training reads.

A folder with aligned photos (`photos/SPLIT/NAME.webp`), clips (`clips/CLIP/FRAME.webp`) and `manifest.csv`, which has a
row a picture:

- `file`: path below the folder, with `/`.
- `sha256`: of the file.
- `split`: "train" or "val". No person is in both.
- `person`: who is shown.
- `quad`: corners of the aligned face in pixels of the picture, x and y in turn: top left, bottom left, bottom right,
  top right; a square, which may be turned. Of an aligned photo, the corners of the picture.
- `box`: left, top, right, bottom of what is picture; beyond it the stored picture is made up (reflected).
- `source`: where the picture was published.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Self

from PIL import Image

from gra_core.checkpoints import file_sha256
from gra_core.errors import UnreadableImageError, refusing

MANIFEST = "manifest.csv"
PHOTOS, CLIPS = "photos", "clips"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Picture:
    """A row of the manifest; `quad` has eight numbers, `box` four, in pixels."""

    file: str
    sha256: str
    split: str
    person: str
    quad: tuple[float, ...]
    box: tuple[float, ...]
    source: str

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Self:
        """Of a row as text."""
        quad, box = (tuple(float(x) for x in row[name].split()) for name in ("quad", "box"))
        if len(quad) != 8 or len(box) != 4 or row["split"] not in SPLITS:
            raise ValueError(row)
        return cls(**{field.name: row[field.name] for field in fields(cls)} | {"quad": quad, "box": box})

    def row(self) -> dict[str, str]:
        """As text."""
        numbers = {name: " ".join(f"{x:g}" for x in getattr(self, name)) for name in ("quad", "box")}
        return asdict(self) | numbers


class PreparedSet:
    """A prepared set.

    Attributes:
        folder: where it is.
        sha256: of its manifest, which has the hashes of all pictures.
        pictures: all rows of the manifest.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest.

        Raises:
            UnreadableImageError: There is none, or it is damaged.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise UnreadableImageError(f"There is no {MANIFEST} in {folder}. Make the folder with `train prepare`.")
        self.folder, self.sha256 = folder, file_sha256(path)
        with (
            refusing(UnreadableImageError, f"{path} is damaged. Make the folder again with `train prepare`."),
            path.open(newline="", encoding="utf-8") as file,
        ):
            self.pictures = [Picture.of_row(row) for row in csv.DictReader(file)]

    def photos(self, split: str) -> list[Picture]:
        """The photos of a split. Raises UnreadableImageError when there are none."""
        found = [x for x in self.pictures if x.split == split and PurePosixPath(x.file).parts[0] == PHOTOS]
        if not found:
            raise UnreadableImageError(f"{self.folder} has no photos of the split '{split}'.")
        return found

    def clips(self, split: str) -> list[list[Picture]]:
        """The clips of a split that have two frames. Raises UnreadableImageError when there are none."""
        clips: dict[PurePosixPath, list[Picture]] = {}
        for picture in self.pictures:
            path = PurePosixPath(picture.file)
            if picture.split == split and path.parts[0] == CLIPS:
                clips.setdefault(path.parent, []).append(picture)
        found = [clip for clip in clips.values() if len(clip) > 1]
        if not found:
            raise UnreadableImageError(f"{self.folder} has no clip of the split '{split}' with two frames.")
        return found

    def read(self, picture: Picture) -> Image.Image:
        """The stored picture, RGB. Raises UnreadableImageError when it is missing or another one."""
        path = self.folder / picture.file
        wrong = f"{path} is missing or damaged. Make the folder again with `train prepare`."
        with refusing(UnreadableImageError, wrong):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != picture.sha256:
                raise ValueError(picture.sha256)
            return Image.open(BytesIO(content)).convert("RGB")


def write_manifest(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write the manifest of a prepared set, whole or not at all."""
    part = folder / f"{MANIFEST}.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Picture)])
        writer.writeheader()
        writer.writerows(picture.row() for picture in sorted(pictures, key=lambda x: x.file))
    part.replace(folder / MANIFEST)
