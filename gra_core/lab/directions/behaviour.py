"""Measures how each edit behaves beyond its offset, and writes that into a directions file.

    python -m gra_core directions calibrate checkpoints/directions.safetensors --out directions.safetensors

Where does an edit take detail away though nothing moves, such as frames, an open eye, wrinkles? There the photo's own
pixels must not stay (`EditDirection.releases`). On generated faces, pictures before and after the edit are compared
along the stream's correspondence: where the fine detail is another one than usual of this edit, or where the edit
takes more detail away than its opposite does, on most faces. Does it turn the head? That is read off landmarks.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from gra_core.alignment import FaceAligner
from gra_core.checkpoints import record_checksum
from gra_core.constants import MAX_STRENGTH
from gra_core.directions.registry import (
    DIRECTIONS_FILE,
    RELEASE_SIDE,
    RELEASES,
    VECTORS,
    EditDirection,
    load_directions,
    save_directions,
)
from gra_core.editor import PortraitEditor
from gra_core.errors import GRAError, NoFaceError
from gra_core.images import tensor_to_image
from gra_core.lab.directions import geometry
from gra_core.lab.directions.sampling import sample_w
from gra_core.models.generator import broadcast_w
from gra_core.models.maps import box_filter, dilate, linstep, upscale_flow, warp
from gra_core.models.photo_warp import contrast

FACES, TURNED, STRENGTH, TRUNCATION, GROUP = 12, 4, 60.0, 0.7, 4
WINDOW = 5
"""Side of the squares, in pixels of 256, that detail is finer than."""
LEAST_CONTRAST = 0.03
"""What contrast, in [-1, 1], is taken to be more by."""
STANDS_OUT = (3.0, 6.0)
"""Multiples of an edit's median change of detail between which a place begins to be what the edit is about."""
LOSES = (0.02, 0.05)
"""Shares of contrast, more than with the opposite edit, between which a place begins to lose detail."""
SURE = 2.0
"""Standard errors over the faces by which that is no accident."""
TURN_DEGREES, TURN_DROP = 10.0, 0.15
"""Changes of `geometry.yaw` and `geometry.nose_drop` between -STRENGTH and STRENGTH from which on a head turns."""


@torch.inference_mode()
def detail_changes(editor: PortraitEditor, codes: Tensor, vector: np.ndarray) -> tuple[Tensor, Tensor]:
    """How an edit and its opposite change the detail of generated faces along what moves.

    Args:
        editor: for its generator and its correspondence.
        codes: W+ codes (B, 16, 512).
        vector: offset at full strength (16, 512).

    Returns:
        Of both (B, 2, RELEASE_SIDE, RELEASE_SIDE): what detail is lost, and what is another one, as shares of the
        contrast before; the larger of the steps between -STRENGTH, 0 and STRENGTH.
    """
    step = STRENGTH / MAX_STRENGTH * torch.tensor(vector).to(codes)
    points = [(code, editor.generator.small_picture(code)) for code in (codes - step, codes, codes + step)]
    changes = []
    for path in (points, points[::-1]):
        steps = [_detail_change(editor, *ends) for ends in pairwise(path)]
        changes.append(box_filter(F.adaptive_avg_pool2d(torch.maximum(*steps), RELEASE_SIDE), 3))
    return changes[0], changes[1]


def _detail_change(editor: PortraitEditor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """One step, between codes with their pictures: (B, 2, 256, 256)."""
    (codes, picture), (codes_after, after) = start, end
    flow = editor.streams.editing.correspondence(editor.generator, codes, codes_after)
    before = warp(picture, upscale_flow(flow, picture.shape[-1] // flow.shape[-1]))
    had, has = contrast(before, WINDOW), contrast(after, WINDOW)
    fine, fine_after = (x - box_filter(x, WINDOW) for x in (before, after))
    other = box_filter((fine_after - fine).abs().mean(1, keepdim=True), WINDOW)
    return torch.cat(((had - has).clamp_min(0), other), 1) / (had + LEAST_CONTRAST)


def releases(plus: Tensor, minus: Tensor) -> np.ndarray:
    """Where an edit releases the photo, (2, RELEASE_SIDE, RELEASE_SIDE), from `detail_changes` (N, 2, ...) of both."""
    maps = []
    for changes, opposite in ((plus, minus), (minus, plus)):
        lost, other = changes.split(1, 1)
        other = other.mean(0, keepdim=True)
        about = linstep(other / other.median(), *STANDS_OUT)
        more = lost - opposite[:, :1]
        mean, error = more.mean(0, keepdim=True), more.std(0, keepdim=True) / len(more) ** 0.5
        loses = linstep(mean, *LOSES) * (mean > SURE * error)
        maps.append(box_filter(dilate(torch.maximum(about, loses), 1), 3)[0, 0])
    return torch.stack(maps).numpy()


def turns(editor: PortraitEditor, codes: Tensor, vector: np.ndarray) -> bool:
    """Whether an edit turns the heads of generated faces (B, 16, 512), on average."""
    aligner, changes = FaceAligner(), []
    step = STRENGTH / MAX_STRENGTH * torch.tensor(vector).to(codes)
    for code in codes.split(1):
        try:
            landmarks = [_landmarks(aligner, editor, code + sign * step) for sign in (-1, 1)]
        except NoFaceError:
            continue
        low, high = ([f(x[None])[0] for f in (geometry.yaw, geometry.nose_drop)] for x in landmarks)
        changes.append(np.subtract(high, low))
    if not changes:
        raise GRAError("No generated face has landmarks on both sides of the edit: use more faces.")
    degrees, drop = np.abs(np.mean(changes, 0))
    return bool(degrees > TURN_DEGREES or drop > TURN_DROP)


def calibrate(editor: PortraitEditor, edits: Mapping[str, EditDirection], count: int) -> list[EditDirection]:
    """The edits with what was measured on `count` generated faces."""
    w = torch.from_numpy(sample_w(editor.generator, count, seed=0, truncation=TRUNCATION)).to(editor.device)
    codes = broadcast_w(w)
    result = []
    for edit in edits.values():
        groups = [detail_changes(editor, part, edit.vector) for part in codes.split(GROUP)]
        both = map(torch.cat, zip(*groups, strict=True))
        turned = turns(editor, codes[:TURNED], edit.vector)
        found = replace(edit, turns=turned, releases=releases(*both) * (not turned))  # a turn does nothing but move
        shares = ", ".join(f"{share:.0%}" for share in found.releases.mean((1, 2)))
        print(f"{edit.key}: releases {shares} of the picture{'; turns the head' if found.turns else ''}", flush=True)
        result.append(found)
    return result


def calibrate_file(
    editor: PortraitEditor, file: Path, out: Path, count: int, edits: Mapping[str, EditDirection] | None = None
) -> None:
    """Write a directions file with what was measured on `count` generated faces of its edits, or of `edits`."""
    edits = edits or load_directions(file)
    with safe_open(file, framework="numpy") as tensors:
        kept = {name: tensors.get_tensor(name) for name in set(tensors.keys()) - {VECTORS, RELEASES}}
    save_directions(out, calibrate(editor, edits, count), kept)
    record_checksum(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `directions calibrate`."""
    parser.add_argument("file", type=Path, nargs="?", default=DIRECTIONS_FILE)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="directions file to write")
    parser.add_argument("--faces", type=int, default=FACES, metavar="N", help=f"generated faces ({FACES})")
    for name, text in (
        ("gain", "how much further the Editing Stream goes than the slider (`evaluate` gives the share that arrives)"),
        ("thins_glasses", "share of a wearer's glasses that the edit takes off by mistake"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, nargs="+", default=[], metavar="KEY=VALUE", help=f"{text}; others stay as they are")


def run(args: argparse.Namespace) -> int:
    """`directions calibrate`."""
    edits = load_directions(args.file)
    for name in ("gain", "thins_glasses"):
        for pair in getattr(args, name):
            key, _, value = pair.partition("=")
            if key not in edits or not value.replace(".", "", 1).removeprefix("-").isdigit():
                raise GRAError(f"--{name.replace('_', '-')} takes KEY=NUMBER, with the key of an edit, not {pair!r}.")
            edits[key] = replace(edits[key], **{name: float(value)})
    calibrate_file(PortraitEditor.from_pretrained(), args.file, args.out, args.faces, edits)
    return 0


def _landmarks(aligner: FaceAligner, editor: PortraitEditor, code: Tensor) -> np.ndarray:
    with torch.inference_mode():
        picture = tensor_to_image(editor.generator.small_picture(code))
    return aligner.detect(picture.resize((512, 512), Image.Resampling.BICUBIC))[0].landmarks
