"""Edits that a visitor brings: direction files and StyleCLIP's mapper checkpoints, by upload or from the operator."""

from __future__ import annotations

import logging
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gra_core.directions import importers
from gra_core.directions.registry import EditDirection
from gra_core.errors import GRAError

if TYPE_CHECKING:
    import numpy as np

MOST = 6
"""How many edits of their own a visitor may have at a time."""

MAPPER_SUFFIXES = {".pt", ".pth"}

log = logging.getLogger(__name__)


def read_edit(path: Path, name: str, average: np.ndarray) -> EditDirection:
    """An edit from an uploaded file: a direction, or a StyleCLIP mapper checkpoint.

    Args:
        path: the file.
        name: what the visitor calls it.
        average: (512,) code of the average face.

    Raises:
        DirectionFileError: it is neither.
    """
    stem = Path(name).stem
    if path.suffix.lower() in MAPPER_SUFFIXES and path.stat().st_size > importers.MAX_BYTES:
        from gra_core.directions.mappers import load_mapper  # noqa: PLC0415 - brings PyTorch

        return load_mapper(path, average, name=stem.replace("_", " "))
    return importers.import_direction(path, stem)


def with_free_key(edit: EditDirection, taken: Container[str]) -> EditDirection:
    """The edit under a key, and a label, that no other edit has."""
    key, label, number = edit.key, edit.label, 1
    while key in taken:
        number += 1
        key, label = f"{edit.key}_{number}", f"{edit.label} ({number})"
    return edit if number == 1 else replace(edit, key=key, label=label)


def load_mappers(sources: str, average: np.ndarray, taken: Container[str]) -> dict[str, EditDirection]:
    """Mapper checkpoints that the operator offers to all visitors, by key; those that cannot be had are logged.

    Args:
        sources: separated by commas: folders of `*.pt`, files, or `owner/repository/file.pt` of the Hub.
        average: (512,) code of the average face.
        taken: keys that other edits have.
    """
    from gra_core.directions.mappers import load_mapper  # noqa: PLC0415 - brings PyTorch

    wanted: list[tuple[str | Path, str | None]] = []
    for source in filter(None, map(str.strip, sources.split(","))):
        path = Path(source).expanduser()
        if path.is_dir():
            wanted += [(file, None) for file in sorted(path.glob("*.pt"))]
        elif path.is_file() or path.is_absolute() or source.count("/") < 2:
            wanted.append((path, None))
        else:
            owner, repository, file = source.split("/", 2)
            wanted.append((f"{owner}/{repository}", file))
    edits: dict[str, EditDirection] = {}
    for source, file in wanted:
        try:
            edit = load_mapper(source, average, file)
        except GRAError as error:
            log.warning("Left out a mapper: %s", error)
            continue
        edit = with_free_key(edit, {*edits, *taken})
        edits[edit.key] = edit
    return edits
