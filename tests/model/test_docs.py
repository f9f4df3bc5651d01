"""The examples of the README and the docs run, their links lead somewhere, and the README stays short."""

import importlib
import re
import shlex
import shutil
from collections.abc import Callable
from inspect import signature
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gra_core import cli
from gra_core.constants import CHECKPOINT_DIR, PROJECT_ROOT
from gra_core.directions.registry import load_directions
from gra_core.directions.text import TextDirections
from gra_core.editor import PortraitEditor

PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])
README = PROJECT_ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]+)?\)")


def blocks(language: str, pages: list[Path] = PAGES) -> list[tuple[Path, str]]:
    """Fenced blocks of a language, with the page that they are on."""
    return [(page, text) for page in pages for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def named(examples: list[tuple[Path, str]]) -> list:
    """Parameters of a test, named after page and first words."""
    return [pytest.param(text, id=f"{page.name}: {text.split(chr(10))[0][:60]}") for page, text in examples]


COMMANDS = [(page, line) for page, text in blocks("") for line in text.splitlines()]


def _directions(arguments: list[str]) -> None:
    from gra_core.lab.directions import fit

    if arguments != ["list"]:
        fit.parser().parse_args(arguments)


def _train(arguments: list[str]) -> None:
    from gra_core.lab.training import pipeline, prepare

    args = {"prepare": prepare, "all": pipeline}[arguments[0]].parser().parse_args(arguments[1:])
    assert arguments[0] == "prepare" or (PROJECT_ROOT / args.recipe).is_file()


def _editor(arguments: list[str]) -> None:
    args = cli.parse(arguments)
    if args.run is cli.run_lab:
        importlib.import_module(f"gra_core.lab.{args.module}").parser().parse_args(args.rest)
    elif further := {"directions": _directions, "train": _train}.get(arguments[0]):
        further(arguments[1:])


def _convert(arguments: list[str]) -> None:
    from gra_core.lab import convert

    convert.parser().parse_args(arguments)


def _python(arguments: list[str]) -> None:
    match arguments:
        case ["-m", "gra_core", *rest]:
            _editor(rest)
        case ["-m", "gra_core.lab.convert", *rest]:
            _convert(rest)
        case ["-m", "venv" | "pytest", path]:
            assert path == ".venv" or (PROJECT_ROOT / path).is_file()
        case [script]:
            assert (PROJECT_ROOT / script).is_file()
        case _:
            pytest.fail(f"no check for {arguments}")


def _make(arguments: list[str]) -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in arguments if "=" not in target)


def _pip(arguments: list[str]) -> None:
    assert arguments[0] in {"install", "download"}
    files = [value for option, value in pairwise(arguments) if option == "-r"]
    assert all((PROJECT_ROOT / file).is_file() for file in files)


def _docker(arguments: list[str]) -> None:
    assert arguments[0] in {"build", "run"}
    assert (PROJECT_ROOT / "Dockerfile").is_file()


def _torchrun(arguments: list[str]) -> None:
    _python(arguments[arguments.index("-m") :])


def _from_elsewhere(_arguments: list[str]) -> None:
    """Not ours to check."""


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "python": _python,
    "gra-portrait": _editor,
    "make": _make,
    "pip": _pip,
    "docker": _docker,
    "torchrun": _torchrun,
    "cd": _from_elsewhere,
    "hf": _from_elsewhere,
}


@pytest.mark.parametrize("line", named(COMMANDS))
def test_commands_are_understood(line):
    program, *arguments = shlex.split(line.replace("\\", "/").partition(" < ")[0])
    CHECKS[program.rpartition("/")[2]](arguments)


@pytest.fixture
def folder(photo_file, tmp_path, monkeypatch, editor):
    """The current folder, with the files that the examples name; the weights are in memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PortraitEditor, "from_pretrained", lambda *_arguments, **_options: editor)
    (tmp_path / "photo.jpg").write_bytes(photo_file.read_bytes())
    (tmp_path / "photos").mkdir()
    shutil.copy(photo_file, tmp_path / "photos")
    shutil.make_archive(str(tmp_path / "holiday"), "zip", tmp_path / "photos")
    np.save(tmp_path / "curly.npy", np.ones(512, np.float32))
    return tmp_path


def test_the_commands_of_the_readme_run(folder, capsys):
    lines = [line for page, line in COMMANDS if page == README and line.startswith("python -m gra_core ")]
    assert len(lines) == 3
    for line in lines:
        assert cli.main(shlex.split(line)[3:]) == 0
    assert "smile" in capsys.readouterr().out
    assert Image.open(folder / "out.png").size == (512, 512)
    assert (folder / "edited.zip").stat().st_size > 1000


def example(page: Path, word: str) -> str:
    """The Python example of a page that names `word`."""
    (text,) = [text for _, text in blocks("python", [page]) if word in text]
    return text


def run(text: str) -> dict[str, object]:
    """The names that an example leaves."""
    names: dict[str, object] = {}
    exec(compile(text, "example", "exec"), names)
    return names


def test_the_python_of_the_readme_runs(folder):
    run(example(README, "PortraitEditor"))
    assert Image.open(folder / "out.png").size == (512, 512)


def test_edits_in_words_are_called_rightly(folder, monkeypatch):
    class Words:
        direction = staticmethod(lambda *arguments: signature(TextDirections.direction).bind(None, *arguments))

    monkeypatch.setattr(TextDirections, "from_pretrained", lambda *_arguments: Words)
    freckles = run(example(PROJECT_ROOT / "docs" / "edits.md", "TextDirections"))["freckles"]
    assert freckles.arguments["target"] == "a face with freckles"


def test_an_edit_is_added_as_contributing_says(folder):
    shutil.copytree(CHECKPOINT_DIR, folder / "checkpoints", ignore=shutil.ignore_patterns("[!dm]*"))
    run(example(PROJECT_ROOT / "CONTRIBUTING.md", "save_directions"))
    added = load_directions(folder / "checkpoints" / "directions.safetensors")
    assert list(added) == [*load_directions(), "curly"]


@pytest.mark.parametrize("page", [README, PROJECT_ROOT / "docs" / "use.md"], ids=lambda page: page.name)
def test_programs_talk_to_the_page(page, url, photo_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(photo_file.read_bytes())
    run(example(page, "gradio_client").replace("http://127.0.0.1:7860", url))
    if page == README:
        assert Image.open(tmp_path / "out.png").size == (512, 512)


def test_every_python_example_is_run():
    assert len(blocks("python")) == 5


def anchors(page: Path) -> set[str]:
    """The names that headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT_ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), (target, anchor)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT_ROOT).as_posix())
def test_named_files_exist(page):
    if "log" in page.parts or page.name == "CHANGELOG.md":
        return  # tells of what was
    for name in re.findall(r"`((?:gra_core|tests|docs|checkpoints|models|ui|lab)/[\w/.-]+\.[a-z]+)`", page.read_text()):
        assert (PROJECT_ROOT / name).exists() or (PROJECT_ROOT / "gra_core" / name).exists(), name


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT_ROOT).as_posix())
def test_no_sentence_begins_with_what(page):
    assert re.findall(r"(?:^|[.!?:] |- |\| )What\b.{0,40}", page.read_text(), re.M) == []


def test_the_space_names_the_terms_of_the_weights():
    header = README.read_text().split("---")[1]
    fields = dict(line.split(": ", 1) for line in header.strip().splitlines())
    assert fields["license"] == "other"
    assert fields["license_name"]
    assert fields["license_link"].startswith("https://")
