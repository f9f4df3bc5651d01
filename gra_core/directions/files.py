"""Reads the arrays in files that people bring as edits: `.npy`, `.safetensors`, and what `torch.save` writes.

Runs in a worker of `gra_core.sandbox`, without torch. Of a pickle, only what plain tensors are made of is understood,
as numpy arrays: nothing in a file is ever called or imported. What goes back to the program are plain numbers.
"""

import collections
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.errors import DirectionFileError, refusing
from gra_core.sandbox import Shared

STYLEGAN2_ROWS = 18
"""Rows of StyleGAN2's W+ at 1024 px."""

MAX_DIRECTION_BYTES = 2**20
"""Largest direction file: an (18, 512) direction in float64 has 74 KB."""

MAX_MAPPER_BYTES = 400 * 2**20
"""Largest mapper checkpoint: a published one, which carries the generator too, has about 170 MB."""

LEVELS = {"course": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, STYLEGAN2_ROWS)}
"""The nets of a StyleCLIP mapper by the name in its file, with the rows they read and write."""

LAYERS = 4

_DAMAGED = {
    ".npy": "{} is damaged or is no .npy file.",
    ".safetensors": "{} is damaged or is no safetensors file of plain numbers.",
    ".pt": "{} is damaged or holds more than plain tensors, and is not opened for safety.",
}

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
"""Class of torch's storages -> numpy type of their numbers. Bfloat16 are the upper halves of float32."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First bytes of a file of PyTorch before 1.6."""


def read_direction(source: Shared, name: str, suffix: str) -> tuple[None, list[np.ndarray]]:
    """The direction in a file, as (16, 512) float32.

    Args:
        source: the file.
        name: what it is called in messages.
        suffix: `.npy`, `.safetensors`, `.pt` or `.pth`.

    Raises:
        DirectionFileError: the file cannot be used; the message says why in one sentence.
    """
    suffix = ".pt" if suffix == ".pth" else suffix
    read: Callable = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_torch}[suffix]
    values = _read(read, source, name, suffix)
    if isinstance(values, dict):
        if len(values) != 1:
            raise DirectionFileError(f"{name} holds {len(values)} tensors; a direction file holds one.")
        (values,) = values.values()
    if not isinstance(values, np.ndarray):
        raise DirectionFileError(f"{name} holds no tensor of plain numbers.")
    return None, [to_rows(values, name)]


def read_mapper(source: Shared, name: str) -> tuple[list[str], list[np.ndarray]]:
    """The weights of a StyleCLIP mapper checkpoint, as they stand in it.

    Returns:
        Which of `LEVELS` it has; for each, LAYERS times a weight (512, 512) and a bias (512,), float32.

    Raises:
        DirectionFileError: it is no mapper checkpoint.
    """
    content = _read(_read_torch, source, name, ".pt")
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict", content)
    state = state if isinstance(state, dict) else {}
    levels = [level for level in LEVELS if f"mapper.{level}_mapping.mapping.1.weight" in state]
    if not levels:
        raise DirectionFileError(f"{name} holds no mapper with levels {', '.join(LEVELS)}.")
    arrays = []
    for level in levels:
        for layer in range(1, LAYERS + 1):
            for part, shape in (("weight", (STYLE_DIM, STYLE_DIM)), ("bias", (STYLE_DIM,))):
                key = f"mapper.{level}_mapping.mapping.{layer}.{part}"
                values = state.get(key)
                if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind != "f":
                    raise DirectionFileError(f"{name} lacks {key}, or holds it in another shape.")
                arrays.append(np.ascontiguousarray(values, np.float32))
    return levels, arrays


def to_rows(values: np.ndarray, name: str = "The direction") -> np.ndarray:
    """(512,), (1, 512), (16, 512) or (18, 512) of numbers -> (16, 512) float32, checked.

    StyleGAN2's rows 15, 16 and 17 all correspond to row 15 here, which gets their mean.

    Raises:
        DirectionFileError: another shape, values that are not numbers or not finite, or all zero.
    """
    shapes = {(STYLE_DIM,), (1, STYLE_DIM), (NUM_STYLES, STYLE_DIM), (STYLEGAN2_ROWS, STYLE_DIM)}
    if values.shape not in shapes:
        wanted = ", ".join(str(shape) for shape in sorted(shapes, key=math.prod))
        shape = values.shape if values.ndim < 5 else f"of {values.ndim} axes"
        raise DirectionFileError(f"{name} holds numbers of shape {shape}; a direction has one of {wanted}.")
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


def _read(read: Callable, source: Shared, name: str, suffix: str) -> object:
    """Content of a file by `read`; whatever it raises over a damaged one becomes one of our errors."""
    with refusing(DirectionFileError, _DAMAGED[suffix].format(name)), source.open() as file:
        return read(file, name)


def _read_npy(file: BinaryIO, name: str) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    first = version == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise DirectionFileError(f"{name} holds Python objects, which are not opened; save plain numbers.")
    if math.prod(shape) * dtype.itemsize > MAX_DIRECTION_BYTES:  # the header alone may ask for terabytes
        raise DirectionFileError(f"{name} holds more numbers than a direction has.")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_safetensors(file: BinaryIO, _name: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load  # noqa: PLC0415

    return load(file.read())


# --- torch.save ------------------------------------------------------------------------------------------------------


class _Named:
    """Something of torch that a pickle names and that is of no use here, such as a device or a type of number."""

    def __init__(self, *_arguments: object) -> None:
        """Take any arguments."""


class _Storage:
    """The numbers that tensors are views of.

    Attributes:
        values: 1-D; None until they are read.
    """

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count, self.values = kind, count, None

    def fill(self, content: bytes | memoryview) -> None:
        """Take the numbers from their bytes. Raises ValueError for too few."""
        values = np.frombuffer(content, _STORAGES[self.kind], self.count)
        if self.kind == "BFloat16Storage":
            values = (values.astype("<u4") << 16).view("<f4")
        self.values = values


class _Tensor:
    """A tensor as a pickle describes it: a view of a storage, in numbers and not in bytes."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *_rest: object) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)
        parts = (offset, *self.shape, *self.strides)
        if not isinstance(storage, _Storage) or len(self.shape) != len(self.strides):
            raise ValueError("not a tensor")
        if not all(type(part) is int and part >= 0 for part in parts):
            raise ValueError("not a tensor")

    def array(self) -> np.ndarray:
        """The tensor as an array. Raises ValueError where it reaches beyond its storage."""
        values = self.storage.values
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        if last >= len(values) or math.prod(self.shape) > max(len(values), MAX_DIRECTION_BYTES):
            raise ValueError("a tensor is larger than its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)


def _parameter(tensor: _Tensor, *_rest: object) -> _Tensor:
    return tensor


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("torch", "device"): _Named,
}
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


class _Unpickler(pickle.Unpickler):
    """Understands the names that plain tensors need, and no other."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        """Replacement for a name of the pickle. Raises UnpicklingError for all but a few."""
        if module == "torch" and name in _STORAGES:
            return name
        if module == "torch" and name in _TYPES:
            return _Named()
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError("a name that plain tensors do not need")
        return _KNOWN[module, name]

    def persistent_load(self, pid: tuple) -> _Storage:
        """A storage of the file: ("storage", class, key, device, number of values)."""
        what, kind, key, _device, count, *_rest = pid
        if what != "storage" or kind not in _STORAGES or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("no storage")
        return self.storages.setdefault(str(key), _Storage(kind, count))


def _read_torch(file: BinaryIO, _name: str) -> object:
    """Content of a file of `torch.save`, tensors as arrays: of PyTorch's zip format, or that before 1.6."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            (pickled,) = [entry for entry in archive.namelist() if entry.endswith("/data.pkl")]
            folder = pickled.removesuffix("data.pkl")
            with archive.open(pickled) as part:
                unpickler = _Unpickler(part)
                content = unpickler.load()
            for key, storage in unpickler.storages.items():
                size = storage.count * np.dtype(_STORAGES[storage.kind]).itemsize
                with archive.open(f"{folder}data/{key}") as part:
                    storage.fill(part.read(size))
        return _arrays(content)
    file.seek(0)
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("not of torch.save")
    _Unpickler(file).load(), _Unpickler(file).load()  # version and machine
    unpickler = _Unpickler(file)
    content = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise ValueError("a storage of another size")
        storage.fill(file.read(count * np.dtype(_STORAGES[storage.kind]).itemsize))
    return _arrays(content)


def _arrays(content: object) -> object:
    """Tensors, also those in a dictionary or one that it holds, as arrays."""
    if isinstance(content, _Tensor):
        return content.array()
    if isinstance(content, dict):
        parts = content.items()
        return {key: _arrays(value) if isinstance(value, _Tensor | dict) else value for key, value in parts}
    return content
