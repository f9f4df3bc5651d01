"""Time and memory of what the page does: `python -m gra_core benchmark`.

All steps are timed in one run beside a plain StyleGAN2 forward pass (`yardstick`): machines differ by a factor of four,
ratios hardly.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from gra_core import __version__
from gra_core.alignment import AlignedFace, FaceAligner
from gra_core.cli import Parser, add_model_options, check_output, count, load_editor, write_json
from gra_core.compositing import View, compose
from gra_core.constants import IMAGE_SIZE
from gra_core.editor import PortraitEditor
from gra_core.images import image_to_tensor, load_image
from gra_core.lab.yardstick import STYLE, StyleGAN2
from gra_core.models.encoder import to_encoder_size
from gra_core.ui.examples import example_files
from gra_core.ui.session import PREVIEW_SIDE

YARDSTICK = "StyleGAN2"
LARGE = (4000, 3000)
"""Width and height of the large photo: 12 megapixels."""
LARGE_FACE = 1500
"""Side of the face in it, pixels."""


def parser() -> argparse.ArgumentParser:
    """Options of `benchmark`."""
    options = Parser(prog="python -m gra_core benchmark", description="Measure speed and memory.")
    options.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report, .json")
    options.add_argument("--repeats", type=count, default=7, metavar="N", help="timed calls of each step (7)")
    add_model_options(options)
    return options


def main(argv: Sequence[str]) -> None:
    """Entry point of `python -m gra_core benchmark`: latency of each step, memory and the device's name, as JSON."""
    args = parser().parse_args(argv)
    check_output(args.out, {".json"})
    report = benchmark(args)
    write_json(report, args.out)
    print(table(report))
    print(f"Wrote {args.out}")


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    """Time what the page does.

    Args:
        args: `repeats` (timed calls of each step, after one untimed call), `checkpoints` and `device`.

    Returns:
        A JSON-ready report: versions, device, seconds per step (median, 5 and 95 %, and the median's ratio to that of
        the yardstick), seconds of first calls, peak resident memory in MiB, and peak GPU memory on a GPU.
    """
    started = time.perf_counter()
    editor, aligner = load_editor(args), FaceAligner()
    loaded = time.perf_counter()
    photo = load_image(example_files()[0])
    aligned = aligner.align(photo, aligner.detect(photo)[0])
    strengths = {key: edit.maximum / 2 for key, edit in list(editor.edits.items())[:2]}
    before = time.perf_counter()
    inversion = editor.invert(aligned.image)
    inverted = time.perf_counter()
    output = editor.render(inversion, strengths)
    preview = compose(photo, [(aligned, output)])
    edited = time.perf_counter()
    first = {"load": loaded - started, "invert": inverted - before, "edit": edited - inverted}
    first["start to first edit"] = edited - started

    yardstick, style = StyleGAN2().eval().to(editor.device), torch.randn(1, STYLE, device=editor.device)
    pixels = image_to_tensor(aligned.image).to(editor.device)
    with torch.inference_mode():
        residuals = editor.streams.reconstruction.residuals(editor.generator, inversion.codes, pixels)
        small = to_encoder_size(pixels)
    codes, streams = editor.edited_codes(inversion, strengths), editor.streams
    large, large_aligned = _large(photo, aligned.image)
    reduced = View.whole(large, PREVIEW_SIDE)
    steps: dict[str, Callable[[], object]] = {
        YARDSTICK: lambda: yardstick(style),
        "detect": lambda: aligner.detect(photo),
        "align": lambda: aligner.align(photo, aligner.detect(photo)[0]),
        "encode": lambda: editor.estimate_codes(small),
        "Reconstruction Stream": lambda: streams.reconstruction.residuals(editor.generator, inversion.codes, pixels),
        "prepare": lambda: streams.editing.prepare(editor.generator, inversion.codes, pixels, residuals),
        "invert": lambda: editor.invert(aligned.image),
        "generator alone": lambda: editor.generator(codes),
        "Editing Stream": lambda: streams.editing(editor.generator, codes, inversion.source),
        "render": lambda: editor.render(inversion, strengths),
        "compose, 1024 px": lambda: compose(aligned.image, [(AlignedFace.of_crop(aligned.image), output)]),
        "compose, 12 megapixels, page": lambda: compose(reduced, [(large_aligned, output)]),
        "compose, 12 megapixels": lambda: compose(large, [(large_aligned, output)]),
        "slider move, 12 megapixels, page": lambda: compose(
            reduced, [(large_aligned, editor.render(inversion, strengths))]
        ),
        "PNG": lambda: preview.save(io.BytesIO(), "PNG"),
        "JPEG": lambda: preview.save(io.BytesIO(), "JPEG", quality=93),
        "WebP": lambda: preview.save(io.BytesIO(), "WEBP", quality=90),
    }
    with torch.inference_mode():
        seconds = {name: _timed(step, args.repeats) for name, step in steps.items()}
        modules = _timed_modules(editor, steps["Editing Stream"], args.repeats)
    for values in seconds.values():
        values["ratio"] = values["median"] / seconds[YARDSTICK]["median"]
    on_gpu = editor.device.type == "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "first_call_seconds": first,
        "seconds": seconds,
        "editing_stream_seconds": modules,
        "peak_memory_mib": peak / (1024**2 if sys.platform == "darwin" else 1024),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 1024**2 if on_gpu else None,
    }


def table(report: dict) -> str:
    """The report as a Markdown table."""
    lines = ["| step | median, ms | 5 % | 95 % | of StyleGAN2 |", "| --- | --- | --- | --- | --- |"]
    for step, values in report["seconds"].items():
        times = " | ".join(f"{1000 * values[name]:.1f}" for name in ("median", "5 %", "95 %"))
        lines.append(f"| {step} | {times} | {values['ratio']:.3f} |")
    lines.append("")
    modules = report["editing_stream_seconds"].items()
    lines += [f"Editing Stream, {name}: {1000 * value:.1f} ms" for name, value in modules]
    first = report["first_call_seconds"]
    lines.append(f"First calls: {', '.join(f'{name} {value:.1f} s' for name, value in first.items())}")
    lines.append(f"Peak memory: {report['peak_memory_mib']:.0f} MiB")
    return "\n".join(lines)


def _timed(step: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of a step: median, 5 and 95 %, after one call that does not count."""
    step()
    times = [_seconds(step) for _ in range(repeats)]
    return {name: float(np.quantile(times, share)) for name, share in (("median", 0.5), ("5 %", 0.05), ("95 %", 0.95))}


def _seconds(step: Callable[[], object]) -> float:
    """Seconds of one call: by events on a GPU, else by the clock."""
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        step()
        return time.perf_counter() - begun
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begun.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1000


def _timed_modules(editor: PortraitEditor, step: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median seconds of the parts of the Editing Stream: the generator's blocks, and what repairs each stage."""
    editing = editor.streams.editing
    parts = {f"generator {block.resolution} px": block for block in editor.generator.blocks}
    for side, module in editing.modules_by_stage.items():
        parts |= {f"Selective Attention {side} px": module.attention, f"Gate & Fusion {side} px": module.fuse}
    if editing.design.pixels:
        parts["pixels"] = editing.pixels
    with _watched(parts) as times:
        for _ in range(repeats + 1):
            step()
    return {name: float(np.median(seconds[1:])) for name, seconds in times.items()}


@contextlib.contextmanager
def _watched(parts: dict[str, nn.Module]) -> Iterator[dict[str, list[float]]]:
    """Seconds of each call of some modules while the block runs."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    begun: dict[str, float] = {}

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    handles = []
    for name, part in parts.items():
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: begun.update({name: now()})))
        handles.append(part.register_forward_hook(lambda *_, name=name: times[name].append(now() - begun[name])))
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def _large(photo: Image.Image, face: Image.Image) -> tuple[Image.Image, AlignedFace]:
    """A photo of 12 megapixels with a face in its middle, and that face, aligned."""
    large = photo.resize(LARGE, Image.Resampling.BICUBIC)
    left, top = ((whole - LARGE_FACE) // 2 for whole in LARGE)
    large.paste(face.resize((LARGE_FACE, LARGE_FACE), Image.Resampling.BICUBIC), (left, top))
    move = np.array([[LARGE_FACE / IMAGE_SIZE, 0, left], [0, LARGE_FACE / IMAGE_SIZE, top], [0, 0, 1.0]])
    return large, AlignedFace.of_crop(face).moved(move)


def _cpu_name() -> str:
    """The processor's name with its number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
