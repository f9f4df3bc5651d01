"""Reads an edit direction from a file that a user brings: `.npy`, `.pt`, `.pth` or `.safetensors`.

Shapes of the field: (512,) or (1, 512) move all rows of the W+ code alike; (16, 512) is this generator's W+; (18, 512)
is that of StyleGAN2 at 1024 px, whose last three rows feed what here is one layer. Files are read in a process of its
own (`files.py`), and nothing in them is ever executed.
"""

import re
from pathlib import Path

import numpy as np

from gra_core import sandbox
from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions.files import MAX_DIRECTION_BYTES as MAX_BYTES
from gra_core.directions.files import to_rows
from gra_core.directions.registry import EditDirection
from gra_core.errors import DirectionFileError
from gra_core.sandbox import SandboxError, Shared

SECONDS = 8.0
MARGIN_BYTES = 100_000_000
"""How long reading a file may take, and how much memory, besides three times the file's size."""

UNIT_NORM = (0.9, 1.1)
"""Lengths of one row between which a direction is taken for a unit normal."""

UNIT_REACH = 3.0
"""How far +100 moves each row along a direction of unit length: where InterFaceGAN's published pictures end."""

MAX_REACH = 60.0
"""Length of a row beyond which no face is left: codes of faces lie within about 15 of the average one."""

SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")


def import_direction(path: str | Path, name: str | None = None) -> EditDirection:
    """An edit from a direction file.

    A direction of unit length is a normal without a strength: +100 then moves `UNIT_REACH` along it, and the caveat
    says so. Any other is taken as the offset at +100.

    Args:
        path: the file.
        name: of the slider; the file's name by default.

    Returns:
        The edit; its key is the name in lower case, other characters than letters, digits and _ replaced by _.

    Raises:
        DirectionFileError: the file cannot be used; the message says why in one sentence.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DirectionFileError(f"{path.name} is none of the direction files that can be read: {', '.join(SUFFIXES)}.")
    size = NUM_STYLES * STYLE_DIM * 4
    options = {"most": MAX_BYTES, "output": size}
    _, content = read_in_worker("read_direction", path, path.name, {"suffix": suffix}, **options)
    values = to_rows(np.frombuffer(content, np.float32, size // 4).reshape(NUM_STYLES, STYLE_DIM).copy(), path.name)
    label = (name or path.stem).strip()[:60] or "direction"
    key = re.sub(r"\W+", "_", label.lower()).strip("_") or "direction"
    length = float(np.linalg.norm(values, axis=1).max())
    caveat = "A direction of your own: what it does was not measured."
    if UNIT_NORM[0] <= length <= UNIT_NORM[1]:
        values = values * np.float32(UNIT_REACH)
        caveat += f" The file holds a unit vector, which says nothing of strength: +100 moves {UNIT_REACH:g} along it."
    elif length > MAX_REACH:
        raise DirectionFileError(
            f"{path.name} moves the code by {length:.0f}, and no face is left beyond {MAX_REACH:.0f}: scale it down."
        )
    values.flags.writeable = False
    hint = "+ goes along the direction, - against it."
    return EditDirection(
        key, label, hint, -MAX_STRENGTH, MAX_STRENGTH, values, "Your own", caveat, f"file {path.name}", kind="file"
    )


def read_in_worker(function: str, path: Path, name: str, arguments: dict, *, most: int, output: int) -> tuple:
    """Result of a function of `gra_core.directions.files` for a file, within limits of time and memory.

    Args:
        function: its name.
        path: the file.
        name: what it is called in messages.
        arguments: further arguments.
        most: largest file, bytes.
        output: most bytes that may come back.

    Raises:
        DirectionFileError: the file cannot be used.
        BusyError: too much is going on.
    """
    try:
        if not path.is_file():
            raise DirectionFileError(f"{name} cannot be read: there is no such file.")
        size = path.stat().st_size
        if size > most:
            raise DirectionFileError(
                f"{name} has {size / 2**20:.1f} MiB and is larger than what is taken, {most / 2**20:g} MiB."
            )
        with Shared.file(path) as shared:
            return sandbox.call(
                f"gra_core.directions.files:{function}",
                [shared],
                {"name": name, **arguments},
                seconds=SECONDS,
                memory=MARGIN_BYTES + 3 * size,
                output=output,
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise DirectionFileError(f"{name} cannot be read: {reason}.") from error
    except SandboxError as error:
        raise DirectionFileError(
            f"{name} takes more time or memory than such a file needs, and is not opened for safety."
        ) from error
