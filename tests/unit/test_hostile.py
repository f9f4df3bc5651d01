"""Hostile files of every kind end in a picture or in a sentence, soon, and without much memory."""

import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import hostile
import numpy as np
import pytest
from measuring import watched
from PIL import Image
from serving import StandIn, WholePhoto

from gra_core import sandbox
from gra_core.batch import FolderSink, edit_batch, list_items
from gra_core.directions.importers import import_direction
from gra_core.directions.mappers import load_mapper
from gra_core.errors import GRAError
from gra_core.images import load_image

SECONDS, BYTES, STALL = 10.0, 500e6, 0.3


@dataclass
class Result:
    """What became of a file: a picture, a sentence, or a traceback; what was said; and what it took."""

    path: Path
    outcome: str
    said: str
    seconds: float
    growth: float
    stall: float


def read(path: Path, out: Path) -> str | Image.Image:
    """Send a file through what its name asks for."""
    if path.suffix == ".zip":
        failures = []
        options = {"whole_photo": True, "unexpected": failures.append}
        with FolderSink(out / path.stem) as sink:
            outcomes = list(edit_batch(StandIn(), WholePhoto(), list_items([path]), {"smile": 9.0}, sink, **options))
        if failures:
            raise failures[0]
        assert all(file.is_relative_to(out) for file in out.rglob("*"))
        return f"{len(outcomes)} photos"
    if path.suffix in (".pt", ".pth", ".npy", ".safetensors"):
        try:
            if path.suffix in (".pt", ".pth"):
                load_mapper(path, np.zeros(512, np.float32))
        except GRAError:
            pass
        return import_direction(path).label
    return load_image(path)


def send_through(path: Path, out: Path) -> Result:
    """What becomes of one file."""
    sandbox.call("os:getpid", [], {}, seconds=9, memory=10**8)  # a worker that is ready: its start does not count
    started = time.perf_counter()
    with watched(stalls=False) as watch:
        try:
            read_of = read(path, out)
            picture = isinstance(read_of, Image.Image)
            outcome, said = "picture", f"{read_of.size}" if picture else read_of
            if picture:
                assert read_of.mode == "RGB"
                assert read_of.info == {}
                read_of.resize((32, 32), Image.Resampling.BOX)  # looks at every pixel
            del read_of
        except GRAError as error:
            said = str(error)
            fine = "\n" not in said and said.endswith(".") and len(said) < 300
            outcome = "sentence" if fine else "traceback"
        except Exception:
            outcome, said = "traceback", traceback.format_exc()
    seconds = time.perf_counter() - started
    shutil.rmtree(out, ignore_errors=True)
    return Result(path, outcome, said, seconds, watch.growth, watch.stall)


@pytest.mark.parametrize("group", hostile.GROUPS)
def test_hostile_files(group, tmp_path):
    (paths,) = hostile.write_corpus(tmp_path / "in", {group: hostile.GROUPS[group]}).values()
    for path in paths:
        result = send_through(path, tmp_path / "out")
        assert result.outcome != "traceback", f"{path.name}: {result.said}"
        assert result.seconds < SECONDS, path.name
        assert result.growth < BYTES, path.name


def test_the_corpus_is_large_and_the_same_each_time():
    small = {group: make for group, make in hostile.GROUPS.items() if group not in ("bombs", "zips")}
    counts = {group: [(name, len(content)) for name, content in make()] for group, make in small.items()}
    assert sum(map(len, counts.values())) >= 384
    again = {group: [(name, len(content)) for name, content in make()] for group, make in small.items()}
    assert counts == again
    for files in counts.values():
        assert len({name for name, _ in files}) == len(files)


def test_memory_counts_once_while_a_program_starts():
    held = np.ones(50_000_000)
    with watched(stalls=False) as watch:
        for _ in range(100):
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    assert watch.growth < held.nbytes / 2


def test_a_batch_of_everything(tmp_path):
    groups = {group: hostile.GROUPS[group] for group in ("damaged", "strangers")}
    hostile.write_corpus(tmp_path / "in", groups)
    failures = []
    with FolderSink(tmp_path / "out") as sink:
        options = {"whole_photo": True, "unexpected": failures.append}
        outcomes = list(
            edit_batch(StandIn(), WholePhoto(), list_items([tmp_path / "in"]), {"smile": 9.0}, sink, **options)
        )
    assert not failures
    assert 0 < sum(outcome.error is None for outcome in outcomes) < len(outcomes)
