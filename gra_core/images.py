"""Reading pictures of any kind into RGB, and the change between pictures and tensors."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from gra_core import sandbox
from gra_core.decoding import MARGIN_BYTES, MAX_PIXELS, STRIP_PIXELS, picture_over
from gra_core.errors import BusyError, UnreadableImageError, refusing
from gra_core.sandbox import SandboxError, Shared

__all__ = [
    "MAX_PIXELS",
    "QUARTER_TURNS",
    "Photo",
    "as_rgb",
    "from_bytes",
    "image_to_tensor",
    "load_image",
    "read_photo",
    "tensor_to_image",
    "to_bytes",
]

HEADER_SECONDS = 4.0
PIXEL_SECONDS = 9.0
"""How long a picture may take to look at, and to decode; one that is brought to half its size may take twice as long.
100 megapixels take two to four seconds."""

BUDGET_BYTES = 1_600_000_000
"""Memory that all pictures may take together: those being decoded, and those decoded within HELD_SECONDS and in use."""

HELD_SECONDS = 30.0
"""How long a decoded picture counts. What is kept longer belongs to a visit, which has limits of its own; and a program
that keeps more pictures than the budget holds is slowed down, not stopped."""

PATIENCE = 60.0
"""How long a picture waits for its share of the budget."""

BYTES_PER_PIXEL = 4

QUARTER_TURNS = {1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}
"""Quarters clockwise -> what turns a picture so."""

_DAMAGED = "{} is damaged or needs too much memory. Copy or download it again, or choose another photo."


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as it was read.

    Attributes:
        image: RGB, upright, sRGB; white below what is transparent.
        alpha: opacity, mode L, of the same size; None where all is opaque.
        notes: sentences on what was done to the photo, for the person whose it is.
    """

    image: Image.Image
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()

    def transparent(self, result: Image.Image) -> Image.Image:
        """A picture made from `image`, of its size, with the photo's transparency; as it is where all is opaque.

        Returns:
            RGBA whose alpha is the photo's, and which looks like `result` on white.
        """
        if self.alpha is None:
            return result
        page = result.convert("RGBA")
        rows = max(1, STRIP_PIXELS // page.width)
        for top in range(0, page.height, rows):
            box = (0, top, page.width, min(top + rows, page.height))
            shown, alpha = np.asarray(page.crop(box).convert("RGB")), self.alpha.crop(box)
            opacity = np.maximum(np.asarray(alpha, np.float32), 1)[..., None] / 255
            colours = np.rint(255 - (255 - shown) / opacity).clip(0, 255).astype(np.uint8)
            strip = Image.fromarray(colours)
            strip.putalpha(alpha)
            page.paste(strip, box)
        return page

    def turned(self, quarters: int, note: str = "") -> Photo:
        """The photo turned clockwise by so many quarters, 1 to 3."""
        turn = QUARTER_TURNS[quarters]
        alpha = self.alpha and self.alpha.transpose(turn)
        return Photo(self.image.transpose(turn), alpha, (*self.notes, *([note] if note else [])))


def load_image(source: str | Path | bytes | BinaryIO | Shared) -> Image.Image:
    """As `read_photo`, the picture alone."""
    return read_photo(source).image


def read_photo(source: str | Path | bytes | BinaryIO | Shared) -> Photo:
    """Read a picture as the person who took it sees it.

    The EXIF orientation is applied, colours are brought from what the file says of them to sRGB (`gra_core.colour`),
    an animation gives its first frame, 16-bit and float greyscale is scaled to 8 bit. Nothing else of the file comes
    along: `info` is empty. What is too large is opened at half its size where that helps. Of a file of which a small
    part is missing the rest is read. The notes say so.

    Decoding runs in a process of its own (`gra_core.sandbox`), within limits of time and memory, and pictures that do
    not fit in memory together wait for each other, first come, first served.

    Args:
        source: a path, the content of a file, a binary stream (read from its start where it can seek), or what a
            worker unpacked (which is closed afterwards).

    Returns:
        The photo, 8 bit, which refers to no open file. Its memory goes back to the system with it.

    Raises:
        UnreadableImageError: there is no such file, or it is empty, damaged, not a picture, takes too long,
            or is of more than 200 megapixels, or 400 as a JPEG (known from its header, before anything is decoded), or
            of less where its kind takes more memory for each.
        BusyError: other pictures were in the way for too long, or there is no memory left.
    """
    shared, name = _share(source)
    with shared, refusing(UnreadableImageError, _DAMAGED.format(name)):
        header = _ask("read_header", [shared], name, HEADER_SECONDS, MARGIN_BYTES + shared.size)
        room = header["pixels"] * BYTES_PER_PIXEL
        no_room = "There is no memory for this photo just now. Try again in a minute."
        with _budget.taken(header["memory"]) as taken, refusing(BusyError, no_room), Shared.memory(room) as target:
            memory = header["memory"] + MARGIN_BYTES
            seconds = PIXEL_SECONDS * (2 if header["halved"] else 1)
            answer = _ask("read_pixels", [shared, target], name, seconds, memory)
            pixels = target.map(writable=False)
            taken.keep(pixels, room)
        width, height = answer["size"]
        if width * height * BYTES_PER_PIXEL != room:
            raise ValueError("not the size that was said")
        alpha = _opacity(picture_over(pixels, (width, height), "RGBA")) if answer["transparent"] is True else None
        return Photo(picture_over(pixels, (width, height)), alpha, tuple(map(str, answer["notes"])))


def _opacity(picture: Image.Image) -> Image.Image:
    """The alpha channel of an RGBA picture, mode L, in memory that goes back to the system with it."""
    opacity = picture_over(mmap.mmap(-1, picture.width * picture.height), picture.size, "L")
    rows = max(1, STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        opacity.im.paste(picture.crop(box).getchannel("A").im, box)
    return opacity


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture in RGB: itself where it is, not a copy as `convert` gives."""
    return image if image.mode == "RGB" else image.convert("RGB")


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """Turn a picture (H x W, any mode) into a 1x3xHxW float32 tensor with values in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).unsqueeze(0).contiguous().float().div_(127.5).sub_(1.0)


def tensor_to_image(tensor: torch.Tensor) -> Image.Image:
    """Turn a 1x3xHxW tensor, any float type and device, into an RGB picture.

    Values are clamped to [-1, 1] and rounded, so that `image_to_tensor` and back changes nothing.

    Raises:
        ValueError: the shape is another one.
    """
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3):
        raise ValueError(f"expected a tensor of shape 1x3xHxW, got {tuple(tensor.shape)}")
    levels = tensor.detach()[0].float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())


def to_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures in [-1, 1], clamped, as uint8."""
    return (pictures.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def from_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures of `to_bytes` in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def _share(source: str | Path | bytes | BinaryIO | Shared) -> tuple[Shared, str]:
    """The content of a file, for a worker, and what to call it in a message."""
    if isinstance(source, Shared):
        return source, "The file"
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        stream = source if source.seekable() else io.BytesIO(source.read())
        if not stream.seek(0, os.SEEK_END):
            raise UnreadableImageError("The file is empty. Choose another photo.")
        return Shared.content(stream), "The file"
    name = " ".join(os.path.basename(os.fspath(source)).split()) or "The file"
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise UnreadableImageError(f"{name} cannot be opened (it is not a file). Choose another photo.")
        return Shared.file(source), name
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{name} does not exist. Check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise UnreadableImageError(f"{name} cannot be opened ({reason}). Choose another photo.") from error


def _ask(function: str, shared: list[Shared], name: str, seconds: float, memory: int) -> object:
    """The answer of a function of `gra_core.decoding` for a picture."""
    try:
        answer, _ = sandbox.call(
            f"gra_core.decoding:{function}", shared, {"name": name}, seconds=seconds, memory=memory
        )
    except SandboxError as error:
        if error.reason == "time":
            raise UnreadableImageError(
                f"{name} takes too long to open. Save it as a JPEG, PNG or WebP file and try again."
            ) from error
        raise UnreadableImageError(_DAMAGED.format(name)) from error
    return answer


class _Budget:
    """Bytes that pictures may take together; who comes first is served first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._shares: dict[object, tuple[int, float]] = {}
        self._line: deque[object] = deque()
        self._changed = threading.Condition(threading.RLock())  # a finalizer may run while its own thread holds it

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[_Share]:
        """A share of `size` bytes while the block runs, and longer where it is kept. Raises BusyError."""
        share = _Share(self, size)
        with self._changed:
            self._line.append(share)
            try:
                until = time.monotonic() + PATIENCE
                while self._line[0] is not share or not self._fits(size):
                    rest = until - time.monotonic()
                    if rest <= 0:
                        raise BusyError("Too many large photos are being opened just now. Try again in a minute.")
                    self._changed.wait(min(rest, 1.0))  # shares also end by their age
                self.put(share, size, float("inf"))
            finally:
                self._line.remove(share)
                self._changed.notify_all()
        try:
            yield share
        finally:
            if not share.kept:
                self.put(share, 0, 0)

    def put(self, share: object, size: int, end: float) -> None:
        """Set what a share takes, and until when it counts (`time.monotonic`)."""
        with self._changed:
            self._shares.pop(share, None)
            if size:
                self._shares[share] = (size, end)
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        """Whether there is room; one that is larger than the whole budget fits when it is alone."""
        now = time.monotonic()
        used = sum(taken for taken, end in list(self._shares.values()) if end > now)
        return not used or used + size <= self.size


class _Share:
    """The share of one picture in a budget."""

    def __init__(self, budget: _Budget, size: int) -> None:
        self.budget, self.size, self.kept = budget, size, False

    def keep(self, owner: object, size: int) -> None:
        """From now on take `size` bytes, until `owner` is gone or HELD_SECONDS are over."""
        self.kept = True
        self.budget.put(self, size, time.monotonic() + HELD_SECONDS)
        weakref.finalize(owner, self.budget.put, self, 0, 0).atexit = False


_budget = _Budget(BUDGET_BYTES)
