"""The wheel holds what it should and works outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gra_core import __version__
from gra_core.checkpoints import MANIFEST
from gra_core.constants import CHECKPOINT_DIR, CHECKPOINTS_VARIABLE, PROJECT_ROOT
from gra_core.directions.registry import load_directions

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
SOURCES = ["gra_core", "assets", "tests", "app.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the repository that has weights of a few bytes."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (PROJECT_ROOT / name).is_dir():
            shutil.copytree(PROJECT_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT_ROOT / name, source)
    (source / "checkpoints").mkdir()
    shutil.copy(CHECKPOINT_DIR / MANIFEST, source / "checkpoints")
    for weights in CHECKPOINT_DIR.glob("*.safetensors"):
        (source / "checkpoints" / weights.name).write_bytes(b"weights")
    # setuptools is among the locked development tools
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", out, source], check=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel installed into it."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return site


def start(installed: Path, folder: Path, *command: object, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in `folder`, with the installed package in front of the repository's."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRA_")}
    environment |= {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_wheel_holds_the_code_the_page_and_no_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = [path for path in (PROJECT_ROOT / "gra_core").rglob("*") if path.is_file()]
    wanted = {f"{path.relative_to(PROJECT_ROOT)}" for path in tracked if "__pycache__" not in path.parts}
    examples = {path.name for path in (PROJECT_ROOT / "assets" / "examples").iterdir()}
    wanted |= {f"gra_core/_files/assets/examples/{name}" for name in examples}
    wanted |= {f"gra_core/_files/checkpoints/{MANIFEST}"}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names}
    assert not [name for name in names if name.endswith((".safetensors", ".pth", ".pt", ".onnx"))]


def test_the_command_works_outside_of_the_repository(installed, tmp_path):
    command = installed / "bin" / "gra-portrait"
    done = start(installed, tmp_path, command, "--version")
    assert done.stdout == f"gra_core {__version__}\n"
    done = start(installed, tmp_path, command, "directions", "list", **{CHECKPOINTS_VARIABLE: str(CHECKPOINT_DIR)})
    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == list(load_directions())
    assert "gra-portrait" in start(installed, tmp_path, command, "--help").stdout


@pytest.mark.parametrize("command", [["directions", "list"], ["app"], ["edit", "x.png", "-o", "x.png"]], ids=" ".join)
def test_without_weights_the_command_says_where_to_get_them(installed, tmp_path, command):
    done = start(installed, tmp_path, "-m", "gra_core", *command, GRADIO_TEMP_DIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert CHECKPOINTS_VARIABLE in done.stderr
    assert "GRA_HUB_REPO" in done.stderr


def test_the_page_finds_its_files(installed, tmp_path):
    program = (
        "import gra_core\nfrom gra_core.ui.examples import example_files\nfrom gra_core.ui.theme import FAVICON\n"
        "from gra_core.constants import RELEASE_DIR\n"
        "assert len(example_files()) == 3 and FAVICON.is_file() and (RELEASE_DIR / 'manifest.json').is_file()\n"
        "print(gra_core.__file__)"
    )
    done = start(installed, tmp_path, "-c", program)
    assert done.stdout.startswith(str(installed)), done.stderr
