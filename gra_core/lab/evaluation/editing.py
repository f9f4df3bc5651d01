"""Exact edits: how near an edited picture comes to the true one, where the true one is known.

A photo has no right answer to "smile": a generated face has. Its source is G(w) and the edit's target G(w + offset),
with the offset that the slider stands for. A method is shown the source's picture alone and must find the code by
itself. What it lacks is counted against the target; the source itself, "unedited", is the row to beat.

The streams are trained on pairs of this kind, other faces with the same directions, so this is their home ground, and
a generated face can be expressed without any residual: the figures say how true an edit is and nothing of what is
kept of a real photo. Read them beside the reconstruction of real portraits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gra_core.directions.registry import edit_offset
from gra_core.editor import PortraitEditor
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.lab.directions.sampling import sample_w
from gra_core.lab.evaluation.summary import figure_text, interval_settings, markdown_rows, rounded, summarize_entries
from gra_core.lab.evaluation.workers import EvaluationContext, Progress, Workers
from gra_core.metrics.identity import face_descriptor, identity_distance
from gra_core.metrics.perceptual import LPIPS
from gra_core.metrics.pixels import METRIC_SIZE, mse, resize
from gra_core.models.generator import Generator, broadcast_w

SOURCE_SEED = 2000
"""Seed of the sources; fitting and checking directions take others by default."""

SOURCE_TRUNCATION = 0.7
"""Sources are mean_w + 0.7 (w - mean_w): faces without the generator's own defects."""

UNEDITED = "unedited"
"""Name of the row in which the source itself is taken for the result."""

OVERALL = "overall"
"""Name of the row over all edits."""

FIGURES = {"lpips": (f"LPIPS {METRIC_SIZE} px", 4), "mse": (f"MSE {METRIC_SIZE} px", 5), "identity": ("identity", 3)}
"""Title and digits of each figure's column; all are distances to the target, lower is better."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the figures need of a picture."""

    small: Tensor  # (1, 3, 256, 256) in [-1, 1]
    descriptor: np.ndarray  # (128,)


@torch.inference_mode()
def source_codes(generator: Generator, count: int) -> Tensor:
    """W+ codes (count, 16, 512) of the sources, on the generator's device; the same ones for each editor."""
    w = sample_w(generator, count, SOURCE_SEED, SOURCE_TRUNCATION)
    return broadcast_w(torch.from_numpy(w)).to(generator.mean_w.device)


@torch.inference_mode()
def render_exact(editor: PortraitEditor, code: Tensor, strengths: Mapping[str, float]) -> Image.Image:
    """The true picture of an edit, G(code + offset), 1024 px; without strengths the source.

    Args:
        editor: whose generator and edits are taken.
        code: W+ code (1, 16, 512), on any device.
        strengths: slider values.
    """
    offset = torch.from_numpy(edit_offset(editor.edits, strengths))
    return tensor_to_image(editor.generator((code + offset.to(code)).to(editor.generator.mean_w.device)))


def measure_exact_edits(workers: Workers, count: int, *, progress: Progress | None = None) -> dict:
    """Measure each method of the workers' benches on `count` generated faces (1 or more); ready for JSON.

    The benches' `settings`: slider values by name, each of one edit: {"smile+60": {"smile": 60.0}, ...}. Repeating it
    with the same editor and count on the same machine gives the same figures.

    The result: `settings`; `per_source`, for each face a list entry `moves` with, for each name in `settings`, for
    each method and for "unedited", the distances to the target `lpips`, `mse` (both at 256 px) and `identity`;
    `summary`, for "overall" and each edit (both directions together), for each method, the same figures as
    `n`, `mean`, `median` and `ci95`. An edit's moves on one face are alike, so they are averaged first: n counts
    faces, and the bootstrap draws faces.
    """
    settings = workers.context.settings
    codes = source_codes(workers.context.editor.generator, count).cpu().split(1)
    per_source = []
    for done, moves in enumerate(workers.map(_measure_source, codes), start=1):
        per_source.append({"moves": moves})
        if progress:
            means = _mean(list(moves.values()))
            line = ", ".join(f"{name} LPIPS {figures['lpips']:.4f}" for name, figures in means.items())
            progress(done, count, f"exact edits of generated face {done}: {line}")
    groups = {OVERALL: list(settings)}
    for move, strengths in settings.items():
        groups.setdefault(next(iter(strengths)), []).append(move)
    return {
        "settings": {
            "sources": count,
            "seed": SOURCE_SEED,
            "truncation": SOURCE_TRUNCATION,
            "edits": list(settings),
            "methods": [UNEDITED, *workers.context.methods],
            "metric_px": METRIC_SIZE,
            "interval": interval_settings("sources"),
        },
        "per_source": per_source,
        "summary": summarize_entries(
            [
                {group: _mean([entry["moves"][move] for move in moves]) for group, moves in groups.items()}
                for entry in per_source
            ]
        ),
    }


def exact_edits_table(result: Mapping) -> str:
    """The summary of `measure_exact_edits` as a Markdown table: a row for each edit and method."""
    count = result["settings"]["sources"]
    rows = [["edit", "method", *(title for title, _ in FIGURES.values())]]
    for edit, by_method in result["summary"].items():
        for method, figures in by_method.items():
            rows.append([edit, method, *(figure_text(figures[key], digits) for key, (_, digits) in FIGURES.items())])
    line = f"Exact edits: distance to the true edit of {count} generated faces (lower is better). Mean [95 % interval]."
    return "\n".join([line, "", *markdown_rows(rows)]) + "\n"


def _measure_source(context: EvaluationContext, code: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    editor, methods, lpips = context.editor, context.methods, context.lpips
    source = render_exact(editor, code, {})
    inversions = {invert: invert(source) for invert in {method.invert for method in methods.values()}}
    unedited = _see(source, lpips)
    moves = {}
    for move, strengths in context.settings.items():
        target = _see(render_exact(editor, code, strengths), lpips)
        results = {UNEDITED: unedited}
        for name, method in methods.items():
            results[name] = _see(method.edit(inversions[method.invert], strengths), lpips)
        moves[move] = {name: _distances(result, target, lpips) for name, result in results.items()}
    return moves


def _see(picture: Image.Image, lpips: LPIPS) -> _Seen:
    small = resize(image_to_tensor(picture).to(lpips.shift.device), METRIC_SIZE)
    return _Seen(small, face_descriptor(picture))


@torch.inference_mode()
def _distances(result: _Seen, target: _Seen, lpips: LPIPS) -> dict[str, float]:
    figures = {
        "lpips": lpips(result.small, target.small).item(),
        "mse": mse(result.small, target.small).item(),
        "identity": identity_distance(result.descriptor, target.descriptor),
    }
    return {key: rounded(value) for key, value in figures.items()}


def _mean(moves: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean of each method's figures over moves."""
    return {
        name: {key: float(np.mean([move[name][key] for move in moves])) for key in figures}
        for name, figures in moves[0].items()
    }
