"""What is installed is what was looked at: versions, hashes and licences of packages."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from gra_core.constants import PROJECT_ROOT

PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.M)
BY_THEMSELVES = {"torch"}
"""Installed before the locked ones: CPU and CUDA wheels of one version differ."""


def wanted(name: str) -> dict[str, str]:
    """Packages of a list and of the lists that it includes."""
    text = (PROJECT_ROOT / name).read_text()
    found = dict(PINNED.findall(text))
    for included in re.findall(r"^-r (\S+)", text, re.M):
        found |= wanted(included)
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]
    assert all(PINNED.match(line) for line in lines), "every package has a version"
    return {_plain(package): version for package, version in found.items()}


def _plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize("name", ["requirements", "requirements-text", "requirements-dev"])
def test_locks_hold_what_the_lists_say_and_a_hash_of_each(name):
    blocks = re.split(r"\n(?=\S)", (PROJECT_ROOT / f"{name}.lock").read_text().strip())
    locked = {}
    for block in blocks:
        (package, version), *_ = PINNED.findall(block)
        locked.setdefault(_plain(package), set()).add(version)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), package
    for package, version in wanted(f"{name}.txt").items():
        assert package in BY_THEMSELVES or version in locked[package]
    assert not BY_THEMSELVES & locked.keys()
    assert not [package for package in locked if package.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_notice_names_every_package_of_the_application():
    notice = _plain((PROJECT_ROOT / "NOTICE").read_text())
    assert [package for package in wanted("requirements.txt") if package not in notice] == []


@pytest.mark.parametrize(
    ("name", "extras"), [("requirements", []), ("requirements-text", ["text"]), ("requirements-dev", ["dev"])]
)
def test_the_lists_are_what_the_package_asks_for(name, extras):
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(line) for line in project["dependencies"]]
    while extras:
        for requirement in map(Requirement, project["optional-dependencies"][extras.pop()]):
            extras.extend(requirement.extras)
            asked += [] if requirement.name == project["name"] else [requirement]
    listed = wanted(f"{name}.txt")
    assert {_plain(requirement.name) for requirement in asked} == listed.keys()
    assert [str(r) for r in asked if not r.specifier.contains(listed[_plain(r.name)])] == []
