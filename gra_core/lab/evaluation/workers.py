"""Measurements spread over processes. Each process loads nets and weights for itself, once."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from gra_core.alignment import FaceAligner
from gra_core.editor import PortraitEditor
from gra_core.lab.evaluation.attributes import AttributeMeter
from gra_core.lab.evaluation.kid import PictureFeatures
from gra_core.lab.evaluation.methods import Method
from gra_core.metrics.perceptual import LPIPS

Progress = Callable[[int, int, str], None]
"""Called after each picture with how many are done, of how many, and a line on the last one."""


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """What one process measures with.

    Attributes:
        editor: whose generator and edits are taken.
        settings: slider values to measure by the name that the report gives them.
        methods: what is measured.
        lpips: the perceptual distance; on its device pictures are compared.
        slow_methods: measured on the first portraits only.
        aligner: finds the faces of photos.
        meter: of attributes and background, if they are measured.
        features: for kernel distances, if they are measured.
    """

    editor: PortraitEditor
    settings: Mapping[str, Mapping[str, float]]
    methods: Mapping[str, Method]
    lpips: LPIPS
    slow_methods: Mapping[str, Method] = field(default_factory=dict)
    aligner: FaceAligner | None = None
    meter: AttributeMeter | None = None
    features: PictureFeatures | None = None


class Workers:
    """Runs tasks in order, here or in processes that each have an evaluation context of their own.

    Args:
        context: of this process.
        make: makes another process's context; has to be picklable.
        processes: 1 means that this process does it all.
    """

    def __init__(
        self, context: EvaluationContext, make: Callable[[], EvaluationContext] | None = None, processes: int = 1
    ) -> None:
        self.context = context
        self._pool = None
        if make and processes > 1:
            threads = max(1, (os.cpu_count() or 1) // processes)
            spawned = multiprocessing.get_context("spawn")  # a forked process could not use the GPU
            self._pool = ProcessPoolExecutor(processes, spawned, _start, (make, threads))

    def map(self, task: Callable[[EvaluationContext, Any], Any], items: Iterable) -> Iterator:
        """What task(context, item) returns for each item, in order; in processes, both have to be picklable."""
        if self._pool is None:
            return (task(self.context, item) for item in items)
        return self._pool.map(_Task(task), items)

    def __enter__(self) -> Self:
        """The workers themselves."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """End the processes; what has not been started is dropped."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Task:
    """A task with the context of the process that runs it."""

    task: Callable[[EvaluationContext, Any], Any]

    def __call__(self, item: object) -> object:
        return self.task(_own[0], item)


_own: list[EvaluationContext] = []


def _start(make: Callable[[], EvaluationContext], threads: int) -> None:
    torch.set_num_threads(threads)
    _own.append(make())
