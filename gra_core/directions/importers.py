"""Reads an edit direction from a file that a user brings: `.npy`, `.pt`, `.pth` or `.safetensors`.

Shapes of the field: (512,) or (1, 512) move all rows of the W+ code alike; (16, 512) is this generator's W+; (18, 512)
is that of StyleGAN2 at 1024 px, whose last three rows feed what here is one layer. Nothing in a file is ever executed:
pickles are refused but for plain tensors.
"""

import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from gra_core.constants import MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import EditDirection
from gra_core.errors import DirectionFileError

MAX_BYTES = 2**20
"""Largest file taken: an (18, 512) direction in float64 has 74 KB."""

STYLEGAN2_ROWS = 18
"""Rows of StyleGAN2's W+ at 1024 px."""

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
    values = to_rows(_read(path), path.name)
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


def to_rows(values: np.ndarray, name: str = "The direction") -> np.ndarray:
    """(512,), (1, 512), (16, 512) or (18, 512) of numbers -> (16, 512) float32, checked.

    StyleGAN2's rows 15, 16 and 17 all correspond to row 15 here, which gets their mean.

    Raises:
        DirectionFileError: another shape, values that are not numbers or not finite, or all zero.
    """
    shapes = {(STYLE_DIM,), (1, STYLE_DIM), (NUM_STYLES, STYLE_DIM), (STYLEGAN2_ROWS, STYLE_DIM)}
    if values.shape not in shapes:
        wanted = ", ".join(str(shape) for shape in sorted(shapes, key=np.prod))
        raise DirectionFileError(f"{name} holds numbers of shape {values.shape}; a direction has one of {wanted}.")
    if values.dtype.kind not in "fiu":
        raise DirectionFileError(f"{name} holds {values.dtype} and not plain numbers.")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DirectionFileError(f"{name} holds values that are not finite.")
    if not values.any():
        raise DirectionFileError(f"{name} holds only zeros.")
    if len(values) == STYLEGAN2_ROWS:
        last = NUM_STYLES - 1
        return np.concatenate([values[:last], values[last:].mean(0, keepdims=True)])
    return np.ascontiguousarray(np.broadcast_to(values, (NUM_STYLES, STYLE_DIM)))


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DirectionFileError(f"{path.name} is none of the direction files that can be read: {', '.join(SUFFIXES)}.")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DirectionFileError(
                f"{path.name} has {size / 2**20:.1f} MiB; a direction file has at most {MAX_BYTES / 2**20:g} MiB."
            )
        if suffix == ".npy":
            return _read_npy(path)
        if suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_torch(path)
    except OSError as error:
        raise DirectionFileError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _read_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if dtype.hasobject:
                raise DirectionFileError(f"{path.name} holds Python objects, which are not opened; save plain numbers.")
            if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_BYTES:  # the header alone may ask for terabytes
                raise DirectionFileError(f"{path.name} holds numbers of shape {shape}: that is no direction.")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, TypeError, SyntaxError, MemoryError) as error:
        raise DirectionFileError(f"{path.name} is damaged or is no .npy file.") from error


def _read_safetensors(path: Path) -> np.ndarray:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DirectionFileError(f"{path.name} is damaged or is no safetensors file of plain numbers.") from error
    return np.asarray(_only(tensors, path.name))


def _read_torch(path: Path) -> np.ndarray:
    import torch  # noqa: PLC0415

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:  # a compressed bomb
                raise DirectionFileError(f"{path.name} unpacks to more than {MAX_BYTES / 2**20:g} MiB: no direction.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise DirectionFileError(
            f"{path.name} is damaged or holds more than plain tensors, and is not opened for safety."
        ) from error
    value = _only(content, path.name) if isinstance(content, dict) else content
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_complex():
        raise DirectionFileError(f"{path.name} holds no tensor of plain numbers.")
    if value.numel() > MAX_BYTES:  # a tensor of zero stride may be larger than its file
        raise DirectionFileError(f"{path.name} holds numbers of shape {tuple(value.shape)}: that is no direction.")
    value = value.detach()
    return (value.float() if value.is_floating_point() else value).numpy()


def _only(tensors: dict, name: str) -> object:
    if len(tensors) != 1:
        raise DirectionFileError(f"{name} holds {len(tensors)} tensors; a direction file holds one.")
    return next(iter(tensors.values()))
