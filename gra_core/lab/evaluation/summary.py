"""Figures over many pictures: means with bootstrap intervals, and Markdown tables of them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

BOOTSTRAP_SAMPLES = 2000
BOOTSTRAP_SEED = 0
CONFIDENCE = 0.95


def interval_settings(unit: str) -> dict:
    """How the intervals come about, for a report's settings; `unit`: what is resampled, in the plural."""
    return {
        "level": CONFIDENCE,
        "method": f"percentile bootstrap of the mean over {unit}",
        "samples": BOOTSTRAP_SAMPLES,
        "seed": BOOTSTRAP_SEED,
    }


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean, from 2000 resamples with a fixed seed."""
    values = np.asarray(values, dtype=float)
    picks = np.random.default_rng(BOOTSTRAP_SEED).integers(len(values), size=(BOOTSTRAP_SAMPLES, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[picks].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def rounded(value: float | None) -> float | None:
    """Six significant digits; None for what JSON cannot hold (the infinite PSNR of equal pictures)."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def summarize_entries(entries: Sequence) -> dict:
    """For each figure of the entries, all of one nesting and kept in it: n, mean, median and ci95 (a pair).

    A figure that is None in an entry is left out there; one without any value has n = 0 and None for the rest.
    """
    if isinstance(entries[0], Mapping):
        return {key: summarize_entries([entry[key] for entry in entries]) for key in entries[0]}
    values = [value for value in entries if value is not None]
    if not values:
        return {"n": 0, "mean": None, "median": None, "ci95": None}
    return {
        "n": len(values),
        "mean": rounded(float(np.mean(values))),
        "median": rounded(float(np.median(values))),
        "ci95": [rounded(bound) for bound in bootstrap_interval(values)],
    }


def figure_text(figure: Mapping, digits: int, seconds: bool = False) -> str:
    """A figure of `summarize_entries` as "mean [low, high]", or the median alone for seconds."""
    if figure["n"] == 0:
        return "-"
    if seconds:
        return f"{figure['median']:.{digits}f}"
    low, high = figure["ci95"]
    return f"{figure['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + " --- |" * len(rows[0]), *body]
