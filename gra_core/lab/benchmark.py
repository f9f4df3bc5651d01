"""Time and memory of what the page does: `python -m gra_core benchmark`."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from gra_core import __version__
from gra_core.cli import Parser, add_model_options, check_output, count, load_editor, write_json
from gra_core.constants import IMAGE_SIZE
from gra_core.images import load_image
from gra_core.ui.examples import example_files


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
    for step, seconds in report["seconds"].items():
        print(f"{step:<14} {seconds['median'] * 1000:9.1f} ms")
    print(f"{'peak memory':<14} {report['peak_memory_mib']:9.0f} MiB")
    print(f"Wrote {args.out}")


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    """Time what the page does.

    Args:
        args: `repeats` (timed calls of each step, after one untimed call), `checkpoints` and `device`.

    Returns:
        A JSON-ready report: versions, device, seconds per step (median, fastest, slowest), first-call seconds
        and peak resident memory in MiB (and peak GPU memory on a GPU).
    """
    started = time.perf_counter()
    editor = load_editor(args)
    loaded = time.perf_counter()

    face = _benchmark_face()
    strengths = {name: edit.maximum / 2 for name, edit in list(editor.edits.items())[:2]}
    steps: dict[str, Callable[[], object]] = {
        "invert": lambda: editor.invert(face),
        "reconstruct": lambda: editor.edit(inversion, {}),
        "edit": lambda: editor.edit(inversion, strengths),
    }
    before = time.perf_counter()
    inversion = editor.invert(face)
    inverted = time.perf_counter()
    editor.edit(inversion, strengths)
    first = {"load": loaded - started, "invert": inverted - before, "edit": time.perf_counter() - inverted}

    seconds = {}
    for step, call in steps.items():
        call()
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        seconds[step] = {"median": statistics.median(times), "fastest": min(times), "slowest": max(times)}

    on_gpu = torch.cuda.is_available() and args.device != "cpu"
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
        "peak_memory_mib": peak / (1024**2 if sys.platform == "darwin" else 1024),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 1024**2 if on_gpu else None,
    }


def _benchmark_face() -> Image.Image:
    """The first example face, or a plain picture where there is none: time does not depend on the content."""
    examples = example_files()
    face = load_image(examples[0]) if examples else Image.radial_gradient("L").convert("RGB")
    return face.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)


def _cpu_name() -> str:
    """The processor's name with its number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
