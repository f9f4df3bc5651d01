"""Make a prepared set of photos and clips: `python -m gra_core train prepare --photos DIR --clips DIR --out DIR`.

A folder of photos holds pictures, also in folders below. In each, the largest face is found and aligned. A folder of
clips holds one folder a clip with its frames in the order of their names. The face of each frame is found, and all
frames of a clip are cut by one window around them. Pictures without a face are left out.

With an `index.csv` in a folder nothing is searched, and the pictures are taken as they are. Columns of photos, which
are aligned then: `file`, and `split`, else the first folder of the file, "train" or "val". Of clips, whose frames are
`CLIP/FRAME.webp` (or .png, .jpg): `clip`, `frame`, `quad`, `picture_box`, `split`. Of both: `person` or `identity`,
and `source` or `repo`. `gra_core.lab.training.prepared` explains them.

Without an index, a folder of photos is one of a person where it lies in the folder that was given, and each other photo
shows a person of its own. A share of the persons is held out.
"""

import argparse
import csv
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gra_core.alignment import FaceAligner, ffhq_quad
from gra_core.archives import is_photo
from gra_core.checkpoints import file_sha256
from gra_core.cli import Parser, count
from gra_core.errors import FaceTooSmallError, GRAError, NoFaceError, UnreadableImageError
from gra_core.images import load_image
from gra_core.lab.training.prepared import CLIPS, PHOTOS, SPLITS, Picture, write_manifest

INDEX = "index.csv"
WINDOW_MARGIN = 0.02
"""What a clip's window is wider than its quads, on each side, as a share of their mean side."""
CLIP_QUAD = 512
"""Quads of clips are stored with at most so many pixels a side: there is nothing finer in most videos."""
QUALITY = 95


def parser() -> argparse.ArgumentParser:
    """Options of `train prepare`."""
    options = Parser(prog="python -m gra_core train prepare", description=__doc__)
    options.add_argument("--photos", type=Path, nargs="+", default=[], metavar="DIR", help="folders of photos")
    options.add_argument("--clips", type=Path, nargs="+", default=[], metavar="DIR", help="folders of clips")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    options.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="of the persons, where no index says it (0.1)"
    )
    options.add_argument("--frames", type=count, default=10, metavar="N", help="of a clip at most, without index (10)")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m gra_core train prepare`."""
    args = parser().parse_args(argv)
    aligner, pictures = FaceAligner(), []
    folders = [(photos_of, folder) for folder in args.photos] + [(clips_of, folder) for folder in args.clips]
    if len({folder.name for _, folder in folders}) < len(folders):
        raise GRAError("Two folders have the same name, which the files are named after: rename one.")
    for read, folder in folders:
        if not folder.is_dir():
            raise UnreadableImageError(f"{folder} is not a folder.")
        before = len(pictures)
        pictures += read(folder, args, aligner)
        print(f"{folder}: {len(pictures) - before} pictures", flush=True)
    if not pictures:
        raise UnreadableImageError("No picture with a face was found: give --photos DIR or --clips DIR.")
    both = set.intersection(*({x.person for x in pictures if x.split == split} for split in SPLITS))
    if both:
        raise GRAError(f"{min(both)} is in both splits, train and val: a person must be in one of them only.")
    write_manifest(args.out, pictures)
    numbers = {split: sum(x.split == split for x in pictures) for split in SPLITS}
    print(f"Wrote {args.out}: {numbers['train']} pictures to train on, {numbers['val']} held out")


def photos_of(folder: Path, args: argparse.Namespace, aligner: FaceAligner) -> Iterator[Picture]:
    """Photos of a folder, aligned, in the prepared set."""
    if (folder / INDEX).is_file():
        for row in _index(folder, {"file"}):
            source = folder / row["file"]
            split = row.get("split") or Path(row["file"]).parts[0]
            target = args.out / PHOTOS / split / f"{folder.name}-{source.name}"
            with Image.open(source) as image:
                width, height = image.size
            if width != height:
                raise UnreadableImageError(f"{source} is not square: the photos of an index are aligned.")
            yield _copied(source, target, args.out, row, folder, _whole(width), (0, 0, width, width), split)
        return
    for source in sorted(path for path in folder.rglob("*") if is_photo(path.name)):
        try:
            aligned = aligner.align_photo(load_image(source)).image
        except (NoFaceError, FaceTooSmallError, UnreadableImageError) as error:
            print(f"{source}: left out: {error}", flush=True)
            continue
        own = source.parent == folder
        person = f"{folder.name}/{source.stem if own else source.parent.relative_to(folder)}"
        split = _split(person, args.held_out)
        name = "-".join((folder.name, *source.relative_to(folder).with_suffix("").parts))
        target = args.out / PHOTOS / split / f"{name}.webp"
        side = aligned.width
        yield _saved(aligned, target, args.out, split, person, _whole(side), folder.name)


def clips_of(folder: Path, args: argparse.Namespace, aligner: FaceAligner) -> Iterator[Picture]:
    """Frames of the clips of a folder, in the prepared set."""
    if (folder / INDEX).is_file():
        for row in _index(folder, {"clip", "frame", "quad", "picture_box", "split"}):
            found = [path for path in (folder / row["clip"]).glob(f"{row['frame']}.*") if is_photo(path.name)]
            if len(found) != 1:
                raise UnreadableImageError(f"{folder / row['clip']} has no frame {row['frame']}.")
            target = args.out / CLIPS / f"{folder.name}-{row['clip']}" / found[0].name
            quad, box = (tuple(float(x) for x in row[name].split()) for name in ("quad", "picture_box"))
            person = {"person": row["clip"]} | row
            yield _copied(found[0], target, args.out, person, folder, quad, box, row["split"])
        return
    for clip in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in clip.iterdir() if is_photo(path.name))
        chosen = np.unique(np.linspace(0, len(files) - 1, min(args.frames, len(files))).round().astype(int))
        frames = []
        for path in (files[i] for i in chosen):
            try:
                frame = load_image(path)
                frames.append((path.stem, frame, ffhq_quad(aligner.detect(frame)[0].landmarks)))
            except (NoFaceError, UnreadableImageError) as error:
                print(f"{path}: left out: {error}", flush=True)
        if len(frames) < 2 or len({frame.size for _, frame, _ in frames}) > 1:
            print(f"{clip}: left out: it needs two frames with a face, all of one size", flush=True)
            continue
        person = f"{folder.name}/{clip.name}"
        split = _split(person, args.held_out)
        quads = np.stack([quad for _, _, quad in frames])
        side = np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1).mean()
        low, high = (f(f(quads, 0), 0) for f in (np.min, np.max))
        window = np.concatenate((low - WINDOW_MARGIN * side, high + WINDOW_MARGIN * side)).round()
        window = np.clip(window, 0, [*frames[0][1].size] * 2).astype(int)
        scale = min(1.0, CLIP_QUAD / side)
        size = np.maximum(np.rint(scale * (window[2:] - window[:2])), 1).astype(int)
        for name, frame, quad in frames:
            picture = frame.resize(tuple(size.tolist()), Image.Resampling.LANCZOS, box=tuple(window.tolist()))
            stored = (quad - window[:2]) * (size / (window[2:] - window[:2]))
            target = args.out / CLIPS / f"{folder.name}-{clip.name}" / f"{name}.webp"
            yield _saved(picture, target, args.out, split, person, tuple(stored.ravel().tolist()), folder.name)


def _index(folder: Path, needed: set[str]) -> list[dict[str, str]]:
    """Rows of a folder's index."""
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = needed - set(reader.fieldnames or ())
        if missing:
            raise UnreadableImageError(f"{folder / INDEX} has no column {min(missing)}.")
        return list(reader)


def _split(person: str, held_out: float) -> str:
    """The split of a person: the same whenever it is asked for."""
    return SPLITS[int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) / 16**8 < held_out]


def _whole(side: int) -> tuple[float, ...]:
    """The quad of a picture that is an aligned face."""
    return (0, 0, 0, side, side, side, side, 0)


def _copied(
    source: Path, target: Path, out: Path, row: dict[str, str], folder: Path, quad: tuple, box: tuple, split: str
) -> Picture:
    """A picture of an index, copied as it is."""
    if split not in SPLITS:
        raise UnreadableImageError(f"{folder / INDEX} puts {source.name} into '{split}', which is no split.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    person = row.get("person") or row.get("identity") or source.stem
    published = row.get("source") or row.get("repo") or folder.name
    name = target.relative_to(out).as_posix()
    return Picture(name, file_sha256(target), split, f"{folder.name}/{person}", quad, box, published)


def _saved(image: Image.Image, target: Path, out: Path, split: str, person: str, quad: tuple, source: str) -> Picture:
    """A picture that was cut out, written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, quality=QUALITY)
    box = (0, 0, image.width, image.height)
    return Picture(target.relative_to(out).as_posix(), file_sha256(target), split, person, quad, box, source)
