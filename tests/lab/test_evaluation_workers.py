"""Measurements spread over processes."""

import os
from types import SimpleNamespace

import pytest
import torch

from gra_core.lab.evaluation.workers import Workers


def make():
    return SimpleNamespace(process=os.getpid(), factor=3)


def multiply(context, number):
    return context.process, torch.get_num_threads(), context.factor * number


def fail(context, number):
    raise ValueError(f"{number} is refused")


def test_one_process_works_on_the_bench_that_is_there():
    context = make()
    with Workers(context) as workers:
        assert list(workers.map(multiply, [1, 2])) == [(os.getpid(), torch.get_num_threads(), 3 * n) for n in (1, 2)]


def test_processes_make_their_own_bench_and_keep_the_order():
    with Workers(make(), make, processes=2) as workers:
        found = list(workers.map(multiply, range(6)))
        assert [value for *_, value in found] == [0, 3, 6, 9, 12, 15]
        assert os.getpid() not in {process for process, *_ in found}
        assert {threads for _, threads, _ in found} == {max(1, os.cpu_count() // 2)}
        with pytest.raises(ValueError, match="7 is refused"):
            list(workers.map(fail, [7]))
