"""Measure an editor on portraits: how faithful it is, how far an edit moves the person, how long it takes.

Each method (`gra_core.lab.evaluation.methods`) is a row of the report.
"""

import datetime
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import dlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import gra_core
from gra_core.alignment import FaceAligner, ffhq_quad
from gra_core.constants import IMAGE_SIZE, MAX_STRENGTH
from gra_core.editor import PortraitEditor
from gra_core.errors import GRAError, StrengthError, UnknownEditError
from gra_core.images import image_to_tensor, load_image
from gra_core.lab.evaluation.attributes import AttributeMeter
from gra_core.lab.evaluation.editing import exact_edits_table, measure_exact_edits, render_exact, source_codes
from gra_core.lab.evaluation.grid import draw_grid
from gra_core.lab.evaluation.groups import groups_table, measure_groups
from gra_core.lab.evaluation.kid import PictureFeatures, kernel_distance
from gra_core.lab.evaluation.methods import GRA, LOW_RATE, Method, standard_methods, trained_methods
from gra_core.lab.evaluation.optimization import optimization_methods
from gra_core.lab.evaluation.summary import figure_text, interval_settings, markdown_rows, rounded, summarize_entries
from gra_core.lab.evaluation.workers import EvaluationContext, Progress, Workers
from gra_core.lab.pictures import picture_files
from gra_core.metrics.identity import face_descriptor, identity_distance
from gra_core.metrics.perceptual import LPIPS, load_lpips
from gra_core.metrics.pixels import METRIC_SIZE, RESIZING, ms_ssim, mse, psnr, resize

SCHEMA = "gra-evaluation/1"

MIN_ALIGNED_SIZE = 256
"""A smaller square picture, in pixels, is taken for a photo that has yet to be aligned."""

ALIGNED_TOLERANCE = 0.1
"""A square picture counts as aligned when aligning it would move no corner further than this part of its side."""

FULL_SIZE_MIN_NATIVE = 900
"""Figures at full size need a portrait of at least so many pixels a side; a smaller one has no such detail."""


@dataclass(frozen=True)
class Portrait:
    """An aligned portrait on which methods are measured."""

    crop: Image.Image  # square RGB
    native_px: float  # side of the crop in pixels of the file that it came from
    was_aligned: bool  # False when it was cut out of a photo
    faces: int  # faces found in the file; the largest is measured


def load_portrait(path: str | Path, aligner: FaceAligner) -> Portrait:
    """Read a picture and align it, unless it is aligned already.

    A square picture of at least 256 px counts as aligned when the crop that the aligner would cut for one of its
    faces has each corner within 10 % of the side of the picture's own corner. It is used as it is.
    Raises UnreadableImageError, NoFaceError or FaceTooSmallError.
    """
    photo = load_image(path)
    faces = aligner.detect(photo)
    if photo.width == photo.height >= MIN_ALIGNED_SIZE:
        side = photo.width
        corners = np.array([(0, 0), (0, side), (side, side), (side, 0)])  # TL, BL, BR, TR
        for face in faces:
            shift = np.linalg.norm(ffhq_quad(face.landmarks) - corners, axis=1).max()
            if shift <= ALIGNED_TOLERANCE * side:
                return Portrait(crop=photo, native_px=side, was_aligned=True, faces=len(faces))
    aligned = aligner.align(photo, faces[0])
    native = np.linalg.norm(aligned.quad[3] - aligned.quad[0])
    return Portrait(crop=aligned.image, native_px=float(native), was_aligned=False, faces=len(faces))


def evaluate(
    editor: PortraitEditor,
    paths: Sequence[str | Path],
    edits: Sequence[str] = ("smile", "age", "yaw"),
    strength: float = 60.0,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
    methods: Mapping[str, Method] | None = None,
    slow_methods: Mapping[str, Method] | None = None,
    slow_limit: int = 0,
    aligner: FaceAligner | None = None,
    lpips: LPIPS | None = None,
    meter: AttributeMeter | None = None,
    features: PictureFeatures | None = None,
    workers: Workers | None = None,
) -> dict:
    """Measure each method on each picture; returns the report, ready for JSON.

    `edits`: names from `editor.edits`, each measured at +`strength` and, where its slider reaches so far, at
    -`strength` (0 to 100). `limit`: only so many of `paths`, the first ones. `methods`: the editor's own by default;
    `slow_methods` are measured on the first `slow_limit` pictures. Reconstructions are compared with the portrait at
    256 px, and at 1024 px where the portrait has at least 900 px of its own. An edit has no right answer in a photo:
    its identity distance to the portrait and its time are measured, and with a `meter` how far the attribute moved
    from the method's own reconstruction in the edit's direction (`change`, in the units of the meter) and the LPIPS
    of the background. With `features`, the kernel distance of portraits and reconstructions is measured. `workers`
    measure with benches of their own, in place of what is given here; by default this process does it all.

    The report: `schema`, `created` (UTC), `settings`, `versions`, `per_image` (one entry for each picture measured:
    `file`, `was_aligned`, `native_px`, `faces`, and for each of `methods` its `invert_seconds`, `reconstruction` and
    `edits`), `summary` (for each method the same figures over all pictures: `n`, `mean`, `median` and `ci95`, the
    bootstrap interval of the mean; and `kid`), `skipped` (`file`, `reason`). A figure that does not exist is null.

    Raises UnknownEditError or StrengthError for settings that the editor does not have, CheckpointError when the
    weights of a metric are missing. A picture that cannot be measured is listed in `skipped`.
    """
    settings = _edit_settings(editor, edits, strength)
    methods = standard_methods(editor) if methods is None else methods
    if workers is None:
        aligner, lpips = aligner or FaceAligner(), lpips or load_lpips()
        workers = Workers(
            EvaluationContext(editor, settings, methods, lpips, slow_methods or {}, aligner, meter, features)
        )
    paths = [Path(path) for path in paths][:limit]

    per_image, skipped, seen = [], [], []
    tasks = [(path, number < slow_limit) for number, path in enumerate(paths)]
    for done, (entry, pairs) in enumerate(workers.map(_measure_file, tasks), start=1):
        if "reason" in entry:
            skipped.append(entry)
            line = f"skipped: {entry['reason']}"
        else:
            per_image.append(entry)
            seen.append(pairs)
            figures = (f"{name} LPIPS {m['reconstruction']['lpips']:.4f}" for name, m in entry["methods"].items())
            line = ", ".join(figures)
        if progress:
            progress(done, len(paths), f"{entry['file']}: {line}")

    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": {
            "methods": [*methods, *workers.context.slow_methods],
            "edits": list(settings),
            "strength": strength,
            "limit": limit,
            "slow_limit": slow_limit,
            "metric_px": METRIC_SIZE,
            "full_px": IMAGE_SIZE,
            "full_min_native_px": FULL_SIZE_MIN_NATIVE,
            "resizing": RESIZING,
            "pixel_range": [-1, 1],
            "lpips": "AlexNet, version 0.1",
            "identity": "dlib face recognition ResNet, 5-point alignment, Euclidean",
            "interval": interval_settings("pictures"),
        },
        "versions": {
            "gra_core": gra_core.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pillow")},
            "dlib": dlib.__version__,
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
        },
        "per_image": per_image,
        "summary": summarize(per_image, _kernel_distances(seen)),
        "skipped": skipped,
    }


def summarize(per_image: Sequence[Mapping], kid: Mapping[str, float]) -> dict:
    """For each method and figure of the entries of `per_image`: n, mean, median and ci95 (a pair); and `kid`.

    Only finite values count; a figure without any has n = 0 and null for the rest.
    """
    names = dict.fromkeys(name for entry in per_image for name in entry["methods"])
    found = {name: [e["methods"][name] for e in per_image if name in e["methods"]] for name in names}
    return {name: {**summarize_entries(entries), "kid": kid.get(name)} for name, entries in found.items()}


def markdown_table(report: Mapping) -> str:
    """The summary as two Markdown tables, reconstruction and edits: a row for each method, means with intervals."""
    measured, skipped = len(report["per_image"]), len(report["skipped"])
    lines = [f"{measured} portraits measured, {skipped} skipped. Mean [95 % interval]; seconds are medians."]
    if not measured:
        return lines[0] + "\n"
    summary, size, full = report["summary"], report["settings"]["metric_px"], report["settings"]["full_px"]
    figures = {
        "lpips": (f"LPIPS {size} px (lower is better)", 4),
        "mse": (f"MSE {size} px (lower)", 5),
        "psnr": (f"PSNR {size} px, dB (higher)", 2),
        "ms_ssim": (f"MS-SSIM {size} px (higher)", 4),
        "identity": ("identity distance (lower)", 3),
        "lpips_full": (f"LPIPS {full} px (lower)", 4),
        "psnr_full": (f"PSNR {full} px, dB (higher)", 2),
    }
    rows = [["reconstruction", *(title for title, _ in figures.values()), "KID/EffNet", "seconds to invert"]]
    for name, method in summary.items():
        cells = [figure_text(method["reconstruction"][key], digits) for key, (_, digits) in figures.items()]
        kid = "-" if method["kid"] is None else f"{method['kid']:.4f}"
        rows.append([name, *cells, kid, figure_text(method["invert_seconds"], 2, seconds=True)])
    lines += ["", *markdown_rows(rows)]

    moves = report["settings"]["edits"]
    titles = {"identity": "identity distance to the portrait", "change": "attribute change", "background": "background"}
    for key, title in titles.items():
        if not moves or key not in next(iter(summary.values()))["edits"][moves[0]]:
            continue
        rows = [[f"{title} after", *moves, "seconds per edit"]]
        for name, method in summary.items():
            cells = (figure_text(method["edits"][move][key], 3) for move in moves)
            seconds = float(np.mean([method["edits"][move]["seconds"]["median"] for move in moves]))
            rows.append([name, *cells, f"{seconds:.2f}"])
        lines += ["", *markdown_rows(rows)]
    if moves and LOW_RATE in summary and "change" in summary[LOW_RATE]["edits"][moves[0]]:
        lines += ["", *markdown_rows(_equal_change_rows(summary, moves))]
    return "\n".join(lines) + "\n"


def _equal_change_rows(summary: Mapping, moves: Sequence[str]) -> list[list[str]]:
    """Share of the low-rate edit's attribute change, and the identity distance at all of it if both grow in line."""
    rows = [["share of low_rate's change; identity distance at equal change", *moves]]
    for name, method in summary.items():
        cells = []
        for move in moves:
            edit, reference = (summary[n]["edits"][move] for n in (name, LOW_RATE))
            share = edit["change"]["mean"] / reference["change"]["mean"]
            start = method["reconstruction"]["identity"]["mean"]
            identity = start + (edit["identity"]["mean"] - start) / share if share > 0 else float("nan")
            cells.append(f"{share:.2f}; {identity:.3f}")
        rows.append([name, *cells])
    return rows


def run(
    directory: str | Path,
    out: str | Path | None = None,
    *,
    methods: Sequence[str] | None = None,
    edits: Sequence[str] = ("smile", "age", "yaw"),
    strength: float = 60.0,
    limit: int | None = None,
    edits_exact: int = 0,
    baselines: str | Path | None = None,
    optimize: int = 0,
    nets: str | Path | None = None,
    kid: bool = False,
    groups: int = 0,
    checkpoints: str | Path | None = None,
    device: str | None = None,
    processes: int = 1,
    grid: str | Path | None = None,
) -> dict:
    """Evaluate the pictures in `directory` with the published model, print the table and return the report.

    `out`: where to write the report as JSON too; it takes its place at once when it is complete. `methods`: names of
    methods, all by default: "low_rate", "gra", and those whose weights lie in the folder `baselines` (see
    `trained_methods`). `optimize`: the methods that optimise for each picture are measured on so many pictures too.
    `nets`: folder of scoring nets, which measure attribute change and background (see `AttributeMeter`). `kid`:
    measure kernel distances. `groups`: how pictures of each kind are reconstructed, on so many portraits and as many
    generated faces, under `groups` of the report (see `measure_groups`; needs `nets`). `edits_exact`: the same edits
    are measured on so many generated faces too, where the right result is known, and go under `exact_edits` of the
    report (see `measure_exact_edits`). `checkpoints`, `device`: see `PortraitEditor.from_pretrained`. `processes`
    share the work; each needs the memory of a whole editor. `grid`: where to draw what each method does to generated
    faces and the astronaut. Progress goes to the standard error stream.

    Raises what `picture_files`, `PortraitEditor.from_pretrained` and `evaluate` raise, GRAError for an unknown
    method or exact edits without edits, OSError when `out` cannot be written (before anything is measured).
    """
    if not baselines:
        _check_methods(methods, (LOW_RATE, GRA))
    if groups and not nets:
        raise GRAError("Groups need the scoring nets: give --nets.")
    if edits_exact and not edits:
        raise GRAError("Exact edits need at least one edit.")
    paths = picture_files(directory)
    make = partial(_make_context, methods, edits, strength, baselines, bool(optimize), nets, kid, checkpoints, device)
    with _writer(out) as write:
        context = make()
        if grid:
            draw_grid(context).save(grid)
        with Workers(context, make, processes) as workers:
            report = evaluate(
                context.editor,
                paths,
                edits,
                strength,
                limit=limit,
                progress=_print_progress,
                methods=context.methods,
                slow_limit=optimize,
                workers=workers,
            )
            if edits_exact:
                report["exact_edits"] = measure_exact_edits(workers, edits_exact, progress=_print_progress)
            if groups:
                codes = source_codes(context.editor.generator, groups).cpu().split(1)
                report["groups"] = {"portraits": measure_groups(workers, _portrait_crop, paths[:groups])}
                report["groups"]["generated"] = measure_groups(workers, _generated_face, codes)
        write(report)
    print(markdown_table(report), end="")
    if groups:
        print("\n" + groups_table(report["groups"]), end="")
    if edits_exact:
        print("\n" + exact_edits_table(report["exact_edits"]), end="")
    return report


def _make_context(
    methods: Sequence[str] | None,
    edits: Sequence[str],
    strength: float,
    baselines: str | Path | None,
    optimizes: bool,
    nets: str | Path | None,
    kid: bool,
    checkpoints: str | Path | None,
    device: str | None,
) -> EvaluationContext:
    """What `run` measures with, from its arguments."""
    editor = PortraitEditor.from_pretrained(checkpoints, device)
    known = standard_methods(editor) | (trained_methods(editor, Path(baselines)) if baselines else {})
    _check_methods(methods, known)
    lpips = load_lpips(device=editor.device)
    return EvaluationContext(
        editor,
        _edit_settings(editor, edits, strength),
        {name: known[name] for name in methods or known},
        lpips,
        optimization_methods(editor, lpips) if optimizes else {},
        FaceAligner(),
        AttributeMeter(Path(nets)) if nets else None,
        PictureFeatures(editor.device) if kid else None,
    )


def _portrait_crop(context: EvaluationContext, path: Path) -> Image.Image:
    return load_portrait(path, context.aligner).crop


def _generated_face(context: EvaluationContext, code: Tensor) -> Image.Image:
    return render_exact(context.editor, code, {})


def _check_methods(names: Sequence[str] | None, known: Iterable[str]) -> None:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise GRAError(f"There is no method {unknown[0]}; there are: {', '.join(known)}.")


@contextmanager
def _writer(out: str | Path | None) -> Iterator[Callable[[Mapping], None]]:
    """A function that writes a report to `out`, whole or not at all; that it may write there is tried beforehand."""
    if out is None:
        yield lambda _report: None
        return
    out = Path(out).resolve()
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.touch()

    def write(report: Mapping) -> None:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(out)

    try:
        yield write
    finally:
        temporary.unlink(missing_ok=True)


def _print_progress(done: int, total: int, line: str) -> None:
    print(f"[{done}/{total}] {line}", file=sys.stderr, flush=True)


def _edit_settings(editor: PortraitEditor, edits: Sequence[str], strength: float) -> dict[str, dict[str, float]]:
    """Slider values to measure, by the name that the report gives them: {"smile+60": {"smile": 60.0}, ...}."""
    if not 0 < strength <= MAX_STRENGTH:
        raise StrengthError(f"The strength to evaluate must lie above 0 and up to {MAX_STRENGTH:g}, not {strength:g}.")
    settings = {}
    for key in edits:
        if key not in editor.edits:
            raise UnknownEditError(f"There is no edit {key}; there are: {', '.join(editor.edits)}.")
        direction = editor.edits[key]
        for value in (strength, -strength):
            if direction.minimum <= value <= direction.maximum:
                settings[f"{key}{value:+g}"] = {key: value}
    return settings


Seen = dict[str, tuple[np.ndarray, np.ndarray]]
"""Features of a portrait and of its reconstruction, by method."""


def _measure_file(context: EvaluationContext, task: tuple[Path, bool]) -> tuple[dict, Seen]:
    """The entry of one picture, or why it was skipped; `task` says whether the slow methods are measured too."""
    path, slow = task
    try:
        portrait = load_portrait(path, context.aligner)
        entry, seen = _measure_portrait(
            context, portrait, {**context.methods, **(context.slow_methods if slow else {})}
        )
    except GRAError as error:
        return {"file": path.name, "reason": str(error)}, {}
    return {"file": path.name, **entry}, seen


def _measure_portrait(
    context: EvaluationContext, portrait: Portrait, methods: Mapping[str, Method]
) -> tuple[dict, Seen]:
    meter, descriptor = context.meter, face_descriptor(portrait.crop)
    features = context.features(image_to_tensor(portrait.crop)) if context.features else None
    background = meter.background(portrait.crop) if meter else None
    inversions, seen = {}, {}
    entry = {
        "was_aligned": portrait.was_aligned,
        "native_px": round(portrait.native_px, 1),
        "faces": portrait.faces,
        "methods": {},
    }
    for name, method in methods.items():
        if method.invert not in inversions:
            inversions[method.invert] = _timed(method.invert, portrait.crop)
        inversion, invert_seconds = inversions[method.invert]
        picture, seconds = _timed(method.edit, inversion, {})
        reconstruction = _compare(picture, portrait, context.lpips)
        reconstruction["identity"] = identity_distance(face_descriptor(picture), descriptor)
        reconstruction["seconds"] = seconds
        if context.features:
            seen[name] = (features, context.features(image_to_tensor(picture)))
        before = meter.scores(picture) if meter else {}
        moves = {}
        for move, strengths in context.settings.items():
            picture, seconds = _timed(method.edit, inversion, strengths)
            figures = {"identity": identity_distance(face_descriptor(picture), descriptor), "seconds": seconds}
            if meter:
                figures["change"] = _attribute_change(meter, picture, before, strengths)
                figures["background"] = meter.background_lpips(picture, background, context.lpips)
            moves[move] = {key: rounded(value) for key, value in figures.items()}
        entry["methods"][name] = {
            "invert_seconds": rounded(invert_seconds),
            "reconstruction": {key: rounded(value) for key, value in reconstruction.items()},
            "edits": moves,
        }
    return entry, seen


def _attribute_change(
    meter: AttributeMeter, picture: Image.Image, before: Mapping[str, float], strengths: Mapping[str, float]
) -> float | None:
    """How far the attribute moved the way the slider says; None if it is not scored."""
    ((key, value),) = strengths.items()
    return float(np.sign(value)) * (meter.scores(picture)[key] - before[key]) if key in before else None


def _kernel_distances(seen: Sequence[Seen]) -> dict[str, float]:
    """Kernel distance of each method's reconstructions to the portraits; needs two portraits or more."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for pairs in seen:
        for name, pair in pairs.items():
            found.setdefault(name, []).append(pair)
    return {
        name: kernel_distance(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
        for name, pairs in found.items()
        if len(pairs) > 1
    }


@torch.inference_mode()
def _compare(picture: Image.Image, portrait: Portrait, lpips: LPIPS) -> dict[str, float | None]:
    """Figures of a reconstruction: at 256 px, and at full size (None where the portrait has too few pixels)."""
    device = lpips.shift.device
    result, target = (image_to_tensor(image).to(device) for image in (picture, portrait.crop))

    def at(side: int, measure: Callable[[Tensor, Tensor], Tensor]) -> float:
        return measure(resize(result, side), resize(target, side)).item()

    full = portrait.native_px >= FULL_SIZE_MIN_NATIVE
    return {
        "lpips": at(METRIC_SIZE, lpips),
        "mse": at(METRIC_SIZE, mse),
        "psnr": at(METRIC_SIZE, psnr),
        "ms_ssim": at(METRIC_SIZE, ms_ssim),
        "lpips_full": at(IMAGE_SIZE, lpips) if full else None,
        "psnr_full": at(IMAGE_SIZE, psnr) if full else None,
    }


def _timed(function: Callable, *arguments: object) -> tuple[object, float]:
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started
