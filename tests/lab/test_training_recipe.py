"""Recipes, and the run of one from pictures to a folder of weights."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from small_nets import draw_material, job_for, shrink, train_streams, write_nets, write_parents

from gra_core.cli import main
from gra_core.constants import CHECKPOINT_DIR, PACKAGE_DIR, PROJECT_ROOT
from gra_core.editor import PortraitEditor
from gra_core.errors import SettingsError
from gra_core.lab.training import pipeline
from gra_core.lab.training.encoder import EncoderTraining
from gra_core.lab.training.loop import STATE, Job
from gra_core.lab.training.pipeline import Run
from gra_core.lab.training.prepared import PreparedSet
from gra_core.lab.training.recipe import Recipe
from gra_core.lab.training.runtime import Process, load_weights, save_weights
from gra_core.models.encoder import Encoder
from gra_core.models.generator import Generator
from gra_core.models.streams import DESIGNS, Streams

RECIPES = PACKAGE_DIR / "lab" / "training" / "recipes"
ALONE = Process(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A folder with `data`, which is prepared, and files of nets: `nets`, `parents`, an encoder."""
    folder = tmp_path_factory.mktemp("material")
    real = Generator()
    load_weights(real, CHECKPOINT_DIR / "generator.safetensors")
    draw_material(folder, real)
    photos, films, data = (str(folder / name) for name in ("portraits", "films", "data"))
    assert main(["train", "prepare", "--photos", photos, "--clips", films, "--out", data, "--held-out", "1e-9"]) == 0
    for name in ("nets", "parents"):
        (folder / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        write_nets(folder / "nets")
        write_parents(folder / "parents", real)
        save_weights(Encoder(), folder / "encoder.safetensors")
    return folder


@pytest.fixture(scope="module")
def narrow(material):
    """Nets are narrow from here on while this module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # a line for each tensor that is traced
        yield


def command(material: Path, out: Path, recipe: Path, *more: str) -> list[str]:
    folders = {"--data": material / "data", "--nets": material / "nets", "--parents": material / "parents"}
    options = folders | {"--out": out, "--recipe": recipe}
    return ["train", "all", *(str(x) for option in options.items() for x in option), *more]


def test_a_recipe_makes_weights_that_the_editor_can_load(narrow, material, random_lpips, tmp_path, monkeypatch, capsys):
    """Cut off at the start, then whole, then again, when nothing is left to do."""
    monkeypatch.setattr(pipeline.evaluate, "load_lpips", lambda *_arguments, **_options: random_lpips)
    smoke = RECIPES / "smoke.toml"
    assert main(command(material, tmp_path, smoke, "--minutes", "0")) == 0
    assert "Time is up in stage encoder" in capsys.readouterr().out
    assert main(command(material, tmp_path, smoke)) == 0
    said = capsys.readouterr().out
    assert "encoder goes on from step 0" in said
    assert all(word in said for word in ("lpips_alex", "consistency", "realism", "held-out"))

    manifest = json.loads((tmp_path / "manifest.json").read_text())
    recipe = Recipe.read(smoke)
    assert list(manifest["stages"]) == [stage.name for stage in recipe.stages]
    assert manifest["recipe"]["stages"][-1]["seeds"] == [1, 2]
    assert len(manifest["commit"]) == 40
    assert manifest["data"]["manifest"] == PreparedSet(material / "data").sha256
    assert {"generator.safetensors", "fr_feature.onnx", "vgg_shift_tolerant.pth"} <= set(manifest["parents"])
    assert "smile+60" in json.loads((tmp_path / "report.json").read_text())["settings"]["edits"]

    editor = PortraitEditor.from_pretrained(tmp_path / "checkpoints", device="cpu")
    assert editor.edits["smile"].releases is not None
    assert all(value.isfinite().all() for net in editor.nets for value in net.state_dict().values())
    first, second = (load_file(tmp_path / "streams" / seed / "streams.safetensors") for seed in "12")
    final = load_file(tmp_path / "checkpoints" / "streams.safetensors")
    name = "reconstruction.detail_encoder.stem.weight"
    assert not torch.equal(first[name], second[name])
    torch.testing.assert_close(final[name].float(), (first[name].float() + second[name]) / 2, atol=1e-3, rtol=1e-3)
    assert not list(tmp_path.rglob(STATE))

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(command(material, tmp_path, smoke)) == 0
    assert capsys.readouterr().out.count("done already") == len(recipe.stages) + 1
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(narrow, material, tmp_path, monkeypatch):
    changes = {"steps": 4, "parts": 1, "regression_steps": 2, "second_perceptual": False}
    whole = EncoderTraining(job_for(material, tmp_path / "whole", "encoder", ALONE, **changes))
    assert whole.run()
    job = job_for(material, tmp_path / "pieces", "encoder", ALONE, **changes)
    first = EncoderTraining(job)
    loss = first.loss

    def fails(step: int):
        if step == 3:
            raise KeyboardInterrupt
        return loss(step)

    monkeypatch.setattr(first, "loss", fails)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert torch.load(job.out / STATE)["step"] == 2
    second = EncoderTraining(job)
    assert second.run()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name
    assert not torch.equal(whole.module.out_weight, whole.average.module.out_weight)


def test_two_processes_train_as_one_with_twice_the_batch(narrow, material, tmp_path):
    """But for what spectral norms are estimated by: one process does so anew for each part."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `torchrun` does
    before, alone = train_streams(material, tmp_path / "one")
    torch.set_num_threads(threads)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(Path(__file__).parents[1] / "small_nets.py"), str(material), str(tmp_path / "two")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    start, together = torch.load(tmp_path / "two" / "weights.pt")
    for part, tolerance in (("module", 1e-4), ("adversary", 0.03)):
        names = [name for name in before if name.startswith(part)]
        first, one, two = (torch.cat([x[name].flatten() for name in names]) for x in (before, alone, together))
        assert all(torch.equal(before[name], start[name]) for name in names)
        apart, moved = ((x - one).abs().mean().item() for x in (two, first))
        assert apart < tolerance * moved, part


class StandIn:
    """A training that takes no time; its weights say which seed it had."""

    jobs: ClassVar[list] = []

    def __init__(self, job: Job) -> None:
        self.job = job

    def run(self) -> bool:
        if len(self.jobs) == self.stops_at:
            return False
        self.jobs.append((self.job.stage.name, self.job.seed))
        module = Streams(DESIGNS[self.job.stage.design]) if self.job.stage.part == "streams" else Encoder()
        for value in module.parameters():
            torch.nn.init.constant_(value, self.job.seed)
        metadata = {"design": module.design.to_json()} if self.job.stage.part == "streams" else {}
        save_weights(module, self.job.out / f"{self.job.stage.part}.safetensors", metadata)
        return True


@pytest.fixture
def quick(narrow, material, tmp_path, monkeypatch):
    """Runs the smoke recipe, changed by pairs of texts, with trainings that take no time; gives what was trained."""

    def run(*changes: tuple[str, str], stops_at: int | None = None) -> list[tuple[str, int]]:
        StandIn.jobs, StandIn.stops_at = [], stops_at
        text = (RECIPES / "smoke.toml").read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(text)
        assert main(command(material, tmp_path / "out", recipe)) == 0
        return StandIn.jobs

    for name in ("EncoderTraining", "StreamTraining"):
        monkeypatch.setattr(pipeline, name, StandIn)
    monkeypatch.setattr(pipeline, "calibrate_file", lambda *_arguments: None)
    monkeypatch.setattr(pipeline.evaluate, "run", lambda _folder, out, **_options: out.write_text("{}"))
    return run


BEFORE_SEEDS = ("encoder", "unaligned", "encoder_on_edits", "aligned", "aligned_again")
ALL = [*((name, 0) for name in BEFORE_SEEDS), ("streams", 1), ("streams", 2)]


def test_only_what_a_change_touches_is_trained_again(quick, tmp_path):
    assert quick(stops_at=6) == ALL[:6]
    assert quick() == ALL[6:]
    assert quick() == []
    final = load_file(tmp_path / "out" / "checkpoints" / "streams.safetensors")
    assert all((value == 1.5).all() for name, value in final.items() if name.endswith("weight"))
    assert quick(("seeds = [1, 2]", "seeds = [2, 3]")) == [("streams", 3)]
    assert quick(("rate = 3e-4", "rate = 2e-4")) == ALL[5:]
    (tmp_path / "out" / "streams" / "streams.safetensors").write_bytes(b"")
    assert quick(("rate = 3e-4", "rate = 2e-4")) == []  # averaged again
    changes = ("rate = 3e-4", "rate = 2e-4"), ("regression_steps = 6", "regression_steps = 5")
    assert quick(*changes) == ALL[:1]  # with the same weights


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("regression_steps", "regresion_steps", "no option regresion_steps in stage encoder; there are: name, part"),
        ("steps = 12", "steps = 2.5", "steps of stage encoder must be a whole number from 0, not 2.5"),
        ("steps = 12", "steps = 0", "steps of stage encoder must be 1 or more"),
        ("steps = 12\n", "", "steps is missing in stage encoder"),
        ("rate = 3e-4", "rate = -1", "rate of stage streams must be a number above 0"),
        ("average = 0.9", "average = 1", "average of stage streams must lie below 1"),
        ("adversary = true", "adversary = 1", "adversary of stage streams must be true or false"),
        ("gradual_unaligned", "gradual", "design of stage unaligned must be one of gra, gradual_dense"),
        ('part = "encoder"', 'part = "coder"', "part of stage encoder must be encoder or streams"),
        (
            'init = "aligned_again"',
            'init = "encoder"',
            "init of stage streams must name an earlier stage of the part streams",
        ),
        ('init = "aligned_again"\n', "", "seeds of stage streams need streams with an init"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds of stage streams must differ"),
        ("seeds = [1, 2]", "seeds = []", "seeds of stage streams must be a list"),
        ('editor = "aligned_again"\n', "", "variants of stage streams need an editor"),
        ('name = "aligned"', 'name = "unaligned"', "name of stage unaligned must be a word"),
        ("[evaluation]", "[evaluations]", "no option evaluations in the recipe"),
        ('compiler = "eager"', 'compiler = "gcc"', "compiler of the recipe must be one of inductor, eager, none"),
        ("[[stages]]", "[[steps]]", "has no stages"),
        ("compiler =", "compiler", "is no TOML file"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_in_one_sentence(old, new, message, tmp_path):
    text = (RECIPES / "smoke.toml").read_text()
    assert old in text
    (tmp_path / "recipe.toml").write_text(text.replace(old, new))
    with pytest.raises(SettingsError, match=message) as error:
        Recipe.read(tmp_path / "recipe.toml")
    assert "\n" not in str(error.value)


def test_what_is_missing_is_said_before_anything_is_trained(material, tmp_path, capsys):
    smoke = RECIPES / "smoke.toml"
    assert main([*command(material, tmp_path, smoke), "--nets", str(tmp_path)]) == 2
    assert "vgg_shift_tolerant.pth is missing" in capsys.readouterr().err
    assert main([*command(material, tmp_path, smoke), "--data", str(tmp_path)]) == 2
    assert "train prepare" in capsys.readouterr().err
    args = pipeline.parser().parse_args(command(material, tmp_path, smoke)[2:])
    with pytest.raises(SettingsError, match="2 parts of stage encoder cannot be shared by 3 processes"):
        Run(Recipe.read(smoke), args, replace(ALONE, world=3))


def test_the_release_uses_what_the_smoke_run_tries():
    """All options but sizes, and what needs nets that are published elsewhere."""
    smoke, release = (Recipe.read(RECIPES / f"{name}.toml") for name in ("smoke", "release"))
    sizes = ("steps", "batch", "parts", "regression_steps", "variants", "seeds", "average", "recompute")
    for tried, real in zip(smoke.stages, release.stages, strict=True):
        assert replace(tried, **{name: getattr(real, name) for name in sizes if hasattr(real, name)}) == real
        assert bool(tried.variants) == bool(real.variants)
    assert len(release.stages[-1].seeds) > 1
