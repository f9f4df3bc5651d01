"""Scores pictures in this process or in several, while the next pictures are being rendered."""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from gra_core.lab.directions.scores import FaceScorer

DESCRIPTOR = "descriptor"
"""Name under which face descriptors (N, 128) stand among the measures."""

CHUNK = 8
"""Pictures that a worker process is handed at a time."""

Measures = dict[str, np.ndarray]
Pending = Callable[[], Measures]
"""Waits for measures that are being taken, and returns them."""

Look = Callable[[np.ndarray], Measures]

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ScoringPool:
    """Takes the measures of pictures; with `processes` > 0 in that many processes of one thread each.

    Args:
        scorer: makes the measures, for use in this process.
        processes: 0, or how many to start; they load the same nets.
        nets: folder that `scorer` was loaded from, needed for processes.
        probe: the glasses probe, likewise.

    Attributes:
        probe: the glasses probe, if it was given.
    """

    def __init__(self, scorer: Look, processes: int = 0, nets: Path | None = None, probe: np.ndarray | None = None):
        self._scorer, self._pool, self.probe = scorer, None, probe
        if processes > 0:
            os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # read by the libraries of the new processes
            # Not forked: a CUDA context does not survive that.
            self._pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (nets, probe))

    @classmethod
    def open(cls, nets: Path, probe: np.ndarray, processes: int = 0) -> Self:
        """With the nets in the folder `nets`, which must be complete (CheckpointError otherwise)."""
        return cls(FaceScorer(nets, probe), processes, nets, probe)

    def submit(self, pictures: np.ndarray, *, describe: bool = False) -> Pending:
        """Start measuring pictures (N, 256, 256, 3) uint8; with `describe` also the face descriptors."""
        if self._pool is None:
            measures = look(self._scorer, pictures, describe=describe)
            return lambda: measures
        jobs = [self._pool.submit(_look, pictures[i : i + CHUNK], describe) for i in range(0, len(pictures), CHUNK)]

        def wait() -> Measures:
            parts = [job.result() for job in jobs]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        return wait

    def __call__(self, pictures: np.ndarray) -> Measures:
        """Measures of pictures (N, 256, 256, 3) uint8."""
        return self.submit(pictures)()

    def __enter__(self) -> Self:
        """For use in `with`: the processes end with it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes; what is not begun is not done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def add_machine_arguments(parser: argparse.ArgumentParser, seed: int) -> None:
    """Options of all that renders faces and scores them; `seed` is the default."""
    parser.add_argument("--device", help="where to render: cpu, cuda, ... (a GPU if there is one)")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="score in N processes (in this one)")
    parser.add_argument("--compile", action="store_true", help="compile the generator: worth it from 500 faces up")
    parser.add_argument("--seed", type=int, default=seed)


def look(scorer: Look, pictures: np.ndarray, *, describe: bool) -> Measures:
    """Measures of pictures and, with `describe`, their face descriptors."""
    from gra_core.metrics.identity import face_descriptor  # noqa: PLC0415

    measures = scorer(pictures)
    if describe:
        described = [face_descriptor(Image.fromarray(picture)) for picture in pictures]
        measures = measures | {DESCRIPTOR: np.float32(described)}
    return measures


_scorer: FaceScorer | None = None
"""Of a worker process."""


def _start_worker(nets: Path, probe: np.ndarray) -> None:
    global _scorer  # noqa: PLW0603
    torch.set_num_threads(1)
    _scorer = FaceScorer(nets, probe)


def _look(pictures: np.ndarray, describe: bool) -> Measures:
    return look(_scorer, pictures, describe=describe)
