"""Measures how edits are drawn on photos: what stays, what keeps its detail, and whether the crop's edge shows.

    python -m gra_core.lab.evaluation.drawing PORTRAITS --out drawing.json

PORTRAITS is a folder of aligned portraits. A photo around each is made by mirroring it at its edges, so that the crop
ends in the middle of hair, clothes and background.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gra_core.alignment import AlignedFace, Face, FaceAligner, crop_to_photo
from gra_core.compositing import EditOutput, compose
from gra_core.editor import PortraitEditor
from gra_core.images import load_image

GRAIN_SIDE, GRAIN = 2600, 12.5
"""Side of the photo with grain, and the grain's standard deviation in levels."""
BLUR = 1.2
"""Standard deviation of the blur, in pixels, that detail is finer than."""
DIFFERING_SIDE = 2048
MARGIN = 0.35
"""How far a photo goes on beyond the crop, in shares of its side."""
BESIDE = 8
"""Distance in pixels of the lines that the crop's edge is compared with."""
SEAM_EDITS = tuple((key, sign * 60.0) for key in ("yaw", "age", "glasses") for sign in (1, -1))
REGIONS = {"forehead": (0.42, 0.24, 0.58, 0.32), "hair": (0.36, 0.05, 0.64, 0.13), "wall": (0.02, 0.02, 0.12, 0.2)}
"""Places of an aligned face: left, top, right, bottom, in shares of its side."""


def fine_detail(picture: Image.Image, box: Sequence[float]) -> float:
    """Mean absolute difference, in levels, of a part of a picture to the same blurred; `box` in shares of the sides."""
    part = picture.crop(tuple(round(share * picture.size[axis % 2]) for axis, share in enumerate(box)))
    return float(np.abs(_levels(part) - _levels(part.filter(ImageFilter.GaussianBlur(BLUR)))).mean())


def grain_kept(editor: PortraitEditor, portrait: Image.Image) -> dict[str, dict[str, float]]:
    """Shares of the photo's fine detail that edits keep, by edit and region, on a large photo with grain."""
    large = _levels(portrait.resize((GRAIN_SIDE,) * 2, Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).normal(0, GRAIN, large.shape)
    photo = Image.fromarray((large + noise).round().clip(0, 255).astype(np.uint8))
    aligned = AlignedFace.of_crop(photo)
    inversion, kept = editor.invert(aligned.image), {}
    for key, strength in (("smile", 60.0), ("yaw", 45.0)):
        output = editor.render(inversion, {key: strength})
        result = compose(photo, [(aligned, output)])
        kept[f"{key} {strength:+g}"] = {
            name: fine_detail(result, box) / fine_detail(photo, box) for name, box in REGIONS.items()
        }
        if key == "yaw":
            kept[f"{key} {strength:+g}"]["all that moves"] = _moved_detail(photo, result, output)
    return kept


def differing(editor: PortraitEditor, portraits: Iterable[Image.Image]) -> list[float]:
    """Share of the pixels that smile +30 changes at all, of each portrait, enlarged to DIFFERING_SIDE."""
    shares = []
    for portrait in portraits:
        photo = portrait.resize((DIFFERING_SIDE,) * 2, Image.Resampling.BICUBIC)
        aligned = AlignedFace.of_crop(photo)
        result = compose(photo, [(aligned, editor.render(editor.invert(aligned.image), {"smile": 30.0}))])
        shares.append(float((np.asarray(result) != np.asarray(photo)).any(-1).mean()))
    return shares


def others_changed(editor: PortraitEditor, photo: Image.Image) -> int:
    """Pixels in the face boxes of others that any edit at +-80 of one face changes, in a photo of several people."""
    aligner, changed = FaceAligner(), 0
    faces = aligner.detect(photo)
    for index, face in enumerate(faces):
        aligned = aligner.align(photo, face)
        inversion = editor.invert(aligned.image)
        for key, edit in editor.edits.items():
            for strength in (80.0, max(-80.0, edit.minimum)):
                result = compose(photo, [(aligned, editor.render(inversion, {key: strength}))], faces)
                for other in faces[:index] + faces[index + 1 :]:
                    before, after = (np.asarray(picture.crop(other.box)) for picture in (photo, result))
                    changed += int((before != after).any(-1).sum())
    return changed


def seams(
    editor: PortraitEditor, portraits: Iterable[Image.Image], show: Callable[[int, str, Image.Image], None]
) -> dict[str, list[float]]:
    """How much the crop's edge stands out (`edge_excess`), by edit, of each portrait in a wider photo.

    Args:
        editor: the editor.
        portraits: aligned portraits.
        show: called with the number of the portrait, the edit and the result.
    """
    ratios: dict[str, list[float]] = {f"{key} {strength:+g}": [] for key, strength in SEAM_EDITS}
    for number, portrait in enumerate(portraits):
        photo, aligned = widened_photo(portrait)
        inversion = editor.invert(aligned.image)
        for key, strength in SEAM_EDITS:
            name = f"{key} {strength:+g}"
            result = compose(photo, [(aligned, editor.render(inversion, {key: strength}))], [aligned.face])
            ratios[name].append(edge_excess(result, aligned.quad))
            show(number, name, result)
    return ratios


def widened_photo(portrait: Image.Image) -> tuple[Image.Image, AlignedFace]:
    """A photo around an aligned portrait, mirrored at its edges, and the portrait as a face of it."""
    side = portrait.width
    margin = round(MARGIN * side)
    pixels = np.pad(np.asarray(portrait), ((margin, margin), (margin, margin), (0, 0)), "reflect")
    aligned = AlignedFace.of_crop(portrait)
    box = tuple(margin + round(share * side) for share in (0.2, 0.25, 0.8, 0.85))
    moved = aligned.moved(np.array([[1.0, 0, margin], [0, 1.0, margin], [0, 0, 1.0]]))
    return Image.fromarray(pixels), AlignedFace(moved.image, moved.quad, Face(box, moved.face.landmarks))


def edge_excess(picture: Image.Image, quad: np.ndarray) -> float:
    """Gradient across the crop's edge over that across lines beside it, on both sides: about 1 where no seam is."""
    beside = [_gradient(picture, quad, away) for away in (-BESIDE, BESIDE)]
    return _gradient(picture, quad, 0) / float(np.mean(beside))


def _gradient(picture: Image.Image, quad: np.ndarray, away: float) -> float:
    """Mean absolute difference, in levels, of pixels two apart, across a square `away` pixels outside of the crop."""
    levels, to_photo = _levels(picture), crop_to_photo(quad)
    side = float(np.hypot(*to_photo[:2, 0]))
    along = (np.arange(round(side)) + 0.5) / round(side)
    total = []
    for edge in (0.0, 1.0):
        for swap in (False, True):
            pair = []
            for step in (-1.0, 1.0):
                across = np.full_like(along, edge + (step + (away if edge else -away)) / side)
                shares = np.stack([across, along] if swap else [along, across], -1)
                x, y = (shares @ to_photo[:2, :2].T + to_photo[:2, 2]).astype(int).T
                pair.append(levels[y.clip(0, levels.shape[0] - 1), x.clip(0, levels.shape[1] - 1)])
            total.append(np.abs(pair[0] - pair[1]).mean())
    return float(np.mean(total))


def main(argv: Sequence[str] | None = None) -> int:
    """All of it, as JSON."""
    parser = argparse.ArgumentParser(prog="gra_core.lab.evaluation.drawing", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="PORTRAITS")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, .json")
    parser.add_argument("--several", type=Path, metavar="PHOTO", help="a photo of several people")
    parser.add_argument("--grain", type=Path, nargs="+", metavar="PORTRAIT", help="portraits that get grain")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N portraits")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also the results whose edge is looked at")
    args = parser.parse_args(argv)
    files = sorted(args.folder.iterdir())[: args.limit]
    editor, report = PortraitEditor.from_pretrained(), {}

    def portraits() -> Iterator[Image.Image]:
        yield from (load_image(file) for file in files)

    def show(number: int, name: str, result: Image.Image) -> None:
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            result.save(args.pictures / f"{number:03}-{name.replace(' ', '')}.webp", quality=85)

    if args.grain:
        found = [grain_kept(editor, load_image(file)) for file in args.grain]
        report["grain kept"] = {
            edit: {place: float(np.mean([one[edit][place] for one in found])) for place in places}
            for edit, places in found[0].items()
        }
    if args.several:
        report["pixels of others changed"] = others_changed(editor, load_image(args.several))
    report["differing, smile +30"] = _summary(differing(editor, portraits()))
    report["seams"] = {name: _summary(values) for name, values in seams(editor, portraits(), show).items()}
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(args.out.read_text())
    return 0


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "largest": max(values),
        "n": len(values),
    }


def _moved_detail(photo: Image.Image, result: Image.Image, output: EditOutput) -> float:
    """Share of the fine detail that what moves by more than two pixels of the crop keeps."""
    moves = Image.fromarray(np.hypot(*np.moveaxis(output.flow, -1, 0)) > 2 / 1024).resize(photo.size)
    fine = [
        np.abs(_levels(picture) - _levels(picture.filter(ImageFilter.GaussianBlur(BLUR))))
        for picture in (photo, result)
    ]
    where = np.asarray(moves)
    return float(fine[1][where].mean() / fine[0][where].mean())


def _levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
