"""From a prepared set to weights: `python -m gra_core train all --recipe FILE --data DIR --out DIR`.

Alone or under `torchrun`. Run again, it goes on where it was: a stage whose recipe, data and parents have the same
hashes is not repeated. In the end `OUT/checkpoints` is a folder of weights for the editor, `OUT/report.json` says what
`evaluate` measures of them, and `OUT/manifest.json` what they were made of: commit, recipe, seeds, and the hashes of
data, parents and the files of each stage.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from gra_core import __version__, checkpoints
from gra_core.checkpoints import CheckpointSource, file_sha256, record_checksum
from gra_core.cli import Parser, write_json
from gra_core.constants import CHECKPOINT_DIR, PROJECT_ROOT
from gra_core.editor import PortraitEditor
from gra_core.errors import CheckpointError, GRAError, SettingsError
from gra_core.lab.directions.behaviour import calibrate_file
from gra_core.lab.evaluation import evaluate
from gra_core.lab.training.encoder import EncoderTraining
from gra_core.lab.training.loop import FACE_NET_FILE, Job
from gra_core.lab.training.perceptual import ALEXNET_FILE, VGG_FILE
from gra_core.lab.training.prepared import PHOTOS, PreparedSet
from gra_core.lab.training.recipe import EncoderStage, Recipe, StreamsStage
from gra_core.lab.training.runtime import Process, end_process, save_weights, start_process
from gra_core.lab.training.streams import StreamTraining

PARENTS = (checkpoints.GENERATOR, checkpoints.PERSON, checkpoints.DIRECTIONS)
"""Weights that no stage makes."""

DONE = "done.json"
RELEASE, REPORT = "checkpoints", "report.json"

Stage = EncoderStage | StreamsStage


def parser() -> argparse.ArgumentParser:
    """Options of `train all`."""
    options = Parser(prog="python -m gra_core train all", description=__doc__)
    options.add_argument(
        "--recipe", type=Path, required=True, metavar="FILE", help="such as gra_core/lab/training/recipes/release.toml"
    )
    options.add_argument("--data", type=Path, required=True, metavar="DIR", help="from `train prepare`")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all that is made")
    options.add_argument(
        "--nets", type=Path, default=Path("nets"), metavar="DIR", help="folder of the nets of the losses (nets)"
    )
    options.add_argument(
        "--parents", type=Path, default=CHECKPOINT_DIR, metavar="DIR", help=f"folder with {', '.join(PARENTS)}"
    )
    options.add_argument("--minutes", type=float, default=float("inf"), help="stop then, to go on another time")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m gra_core train all`."""
    args = parser().parse_args(argv)
    recipe = Recipe.read(args.recipe)
    try:
        Run(recipe, args, start_process()).all()
    finally:
        end_process()


class Run:
    """One recipe, with its data, in one folder."""

    def __init__(self, recipe: Recipe, args: argparse.Namespace, process: Process) -> None:
        """Check that all is at hand.

        Raises:
            CheckpointError: a file of a net is missing.
            SettingsError: the parts of a step cannot be shared by the processes.
            UnreadableImageError: the data is no prepared set, or lacks a kind of picture.
        """
        self.recipe, self.args, self.process = recipe, args, process
        self.deadline = time.monotonic() + 60 * args.minutes
        self.out, self.data = args.out, PreparedSet(args.data)
        for split in ("train", "val"):
            self.data.photos(split)
        if any(stage.motion for stage in recipe.stages):
            self.data.clips("train")
        nets = [VGG_FILE, FACE_NET_FILE]
        nets += [ALEXNET_FILE] * any(stage.part == "encoder" and stage.second_perceptual for stage in recipe.stages)
        files = [args.parents / name for name in PARENTS] + [args.nets / name for name in nets]
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"{file} is missing: docs/reproduce.md says where it comes from.")
        self.parents = {file.name: file_sha256(file) for file in files}
        for stage in recipe.stages:
            if stage.parts % process.world:
                raise SettingsError(
                    f"The {stage.parts} parts of stage {stage.name} cannot be shared by {process.world} processes."
                )
        self.stages = {stage.name: stage for stage in recipe.stages}
        self.records: dict[str, dict[str, Any]] = {}

    def all(self) -> None:
        """Every stage that is not done yet, then calibration, evaluation and the manifest."""
        for stage in self.recipe.stages:
            if not self.train(stage):
                self.process.log(f"Time is up in stage {stage.name}: run the same command again to go on.")
                return
        if self.process.leads:
            self.release()
        self.process.agreed(True)  # all end together

    def file(self, stage: Stage) -> Path:
        """The weights that a stage makes."""
        return self.out / stage.name / f"{stage.part}.safetensors"

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """All that a stage's weights depend on but its seeds, with the hashes of files.

        Options at their defaults are left out, so that an option that is new leaves what was made before as it is.
        """
        options = {field.name: getattr(stage, field.name) for field in fields(stage) if field.name != "seeds"}
        options = {name: value for name, value in options.items() if value != getattr(type(stage), name, None)}
        found = {"stage": options, "data": self.data.sha256, "parents": self.parents}
        others = {self.stages[name].name for name in (stage.init, stage.editor) if name}
        if stage.part == "streams":
            others.add(self.recipe.encoder_of(stage).name)
        return found | {"stages": {name: self.records[name]["sha256"] for name in sorted(others)}}

    def train(self, stage: Stage) -> bool:
        """Train a stage with each of its seeds and average the results, unless it is done; whether it is done now."""
        inputs = self.inputs(stage)
        key = hash_of(inputs | {"seeds": stage.seeds})
        folder, weights = self.out / stage.name, self.file(stage)
        record = read_record(folder / DONE)
        done = record.get("key") == key and weights.is_file() and file_sha256(weights) == record["sha256"]
        if self.process.agreed(done):
            self.records[stage.name] = read_record(folder / DONE)
            self.process.log(f"Stage {stage.name} is done already.")
            return True
        for seed in stage.seeds:
            if not self.train_once(stage, seed, hash_of(inputs | {"seed": seed})):
                return False
        if self.process.leads:
            average_files([folder / str(seed) / weights.name for seed in stage.seeds], weights)
            record = {"key": key, "sha256": file_sha256(weights), "seeds": stage.seeds, "inputs": inputs}
            record |= {"processes": self.process.world, "device": device_name(self.process.device)}
            write_json(record, folder / DONE)
        self.process.agreed(True)  # the files are written
        self.records[stage.name] = read_record(folder / DONE)
        return True

    def train_once(self, stage: Stage, seed: int, key: str) -> bool:
        """Train a stage with one seed, unless that is done; whether it is done now."""
        out = self.out / stage.name / str(seed)
        done = read_record(out / DONE).get("key") == key and (out / self.file(stage).name).is_file()
        if self.process.agreed(done):
            return True
        init, editor, encoder = (self.stages.get(name) for name in (stage.init, stage.editor, ""))
        if stage.part == "streams":
            encoder = self.recipe.encoder_of(stage)
        if editor and self.process.leads:
            self.assemble(self.out / editor.name / "editor", editor)
        out.mkdir(parents=True, exist_ok=True)
        self.process.agreed(True)  # the folders are there
        job = Job(
            self.recipe,
            stage,
            seed,
            key,
            out,
            self.data,
            self.args.parents,
            self.args.nets,
            self.process,
            init=init and self.file(init),
            encoder=encoder and self.file(encoder),
            editor=editor and self.out / editor.name / "editor",
            deadline=self.deadline,
        )
        if not {"encoder": EncoderTraining, "streams": StreamTraining}[stage.part](job).run():
            return False
        if self.process.leads:
            write_json({"key": key}, out / DONE)
        return True

    def assemble(self, folder: Path, stage: StreamsStage) -> None:
        """A folder of an editor's weights: the parents', and those of a stage of streams and of its encoder."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [self.args.parents / name for name in PARENTS]
        for file in (*files, self.file(self.recipe.encoder_of(stage)), self.file(stage)):
            shutil.copyfile(file, folder / file.name)

    def release(self) -> None:
        """Calibrate the edits, evaluate, and write the manifest, unless that is done."""
        last, folder = self.recipe.stages[-1], self.out / RELEASE
        made = {name: record["sha256"] for name, record in self.records.items()}
        how = {"directions": asdict(self.recipe.directions), "evaluation": asdict(self.recipe.evaluation)}
        key = hash_of(how | {"stages": made, "parents": self.parents, "data": self.data.sha256})
        manifest = self.out / "manifest.json"
        if read_record(manifest).get("key") == key:
            self.process.log("Calibration and evaluation are done already.")
            return
        self.assemble(folder, last)
        write_json({}, folder / checkpoints.MANIFEST)
        for file in sorted(folder.glob("*.safetensors")):
            record_checksum(file)
        directions = folder / checkpoints.DIRECTIONS
        if self.recipe.directions.faces:
            editor = PortraitEditor.from_pretrained(folder, device=self.process.device)
            calibrate_file(editor, directions, directions, self.recipe.directions.faces)
        options = asdict(self.recipe.evaluation)
        attributes, limit = options.pop("attributes"), options.pop("limit") or None
        evaluate.run(
            self.args.data / PHOTOS / "val",
            self.out / REPORT,
            checkpoints=folder,
            device=str(self.process.device),
            nets=self.args.nets if attributes else None,
            limit=limit,
            **options,
        )
        record = {
            "key": key,
            **source_code(),
            "versions": {"gra_core": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "recipe": asdict(self.recipe),
            "data": {"manifest": self.data.sha256, "pictures": len(self.data.pictures)},
            "parents": self.parents,
            "stages": self.records,
            "checkpoints": json.loads((folder / checkpoints.MANIFEST).read_text()),
            "report": file_sha256(self.out / REPORT),
        }
        write_json(record, manifest)
        self.process.log(f"Wrote {folder}, {self.out / REPORT} and {manifest}")


def average_files(files: Sequence[Path], out: Path) -> None:
    """Write the mean of files of streams of one design; of one file of any part, the file itself."""
    if len(files) == 1:
        shutil.copyfile(files[0], out)
        return
    streams = [CheckpointSource(file.parent).load_streams() for file in files]
    average = AveragedModel(streams[0], use_buffers=True)
    for one in streams:
        average.update_parameters(one)
    save_weights(average.module, out, {"design": streams[0].design.to_json()})


def hash_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """A file of JSON; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def device_name(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def source_code() -> dict[str, Any]:
    """The commit, and whether files differ from it; None outside a repository."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(PROJECT_ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except OSError as error:
        raise GRAError("The manifest names the commit: install git.") from error
