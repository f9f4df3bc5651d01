"""Reading pictures of any kind into RGB, and the change between pictures and tensors."""

import contextlib
import functools
import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pillow_heif
import torch
from PIL import Image, ImageCms

from gra_core.errors import UnreadableImageError

MAX_PIXELS = 100_000_000
"""Largest picture that is opened, in pixels. 100 megapixels take 300 MB as RGB."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
"""What Pillow may try. Short on purpose: some of its other readers start external programs (EPS)."""

_USE_INSTEAD = "Save it as a JPEG, PNG or WebP file and try again."

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the picture upright. EXIF 2.32, tag 0x0112; 1 is upright already."""


def load_image(source: str | Path | bytes | BinaryIO) -> Image.Image:
    """Read a picture as the person who took it sees it.

    The EXIF orientation is applied, colours are brought from the picture's profile to sRGB, transparent parts become
    white, an animation gives its first frame, 16-bit and float greyscale is scaled to 8 bit.

    Args:
        source: a path, the content of a file, or a binary stream (read from its start where it can seek).

    Returns:
        Picture of mode RGB, 8 bit, that refers to no open file.

    Raises:
        UnreadableImageError: there is no such file, or it is empty, damaged, not a picture,
            or of more than `MAX_PIXELS` pixels (known from its header, before anything is decoded).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")  # on metadata, and on sizes that MAX_PIXELS allows
        stream, name = _open_stream(source, stack)
        start = stream.read(16)
        stream.seek(0)
        if not start:
            raise UnreadableImageError(f"{name} is empty. Choose another photo.")
        image = stack.enter_context(_read_header(stream, name, start))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(name, f"{width} x {height} pixels")
        try:
            image.load()
            return _upright(_to_rgb(image), image)
        except Exception as error:  # decoders of damaged files raise nearly every built-in exception
            raise UnreadableImageError(
                f"{name} is damaged or only partly there. Copy or download it again, or choose another photo."
            ) from error


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


def _open_stream(source: str | Path | bytes | BinaryIO, stack: contextlib.ExitStack) -> tuple[BinaryIO, str]:
    """Return a stream at its start, which can seek, and what to call it in a message."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), "The file"
    if not isinstance(source, (str, os.PathLike)):
        if not source.seekable():
            return io.BytesIO(source.read()), "The file"
        source.seek(0)
        return source, "The file"
    name = " ".join(os.path.basename(os.fspath(source)).split()) or "The file"
    try:
        return stack.enter_context(open(source, "rb")), name
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{name} does not exist. Check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise UnreadableImageError(f"{name} cannot be opened ({reason}). Choose another photo.") from error


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """Return those of _FORMATS that this installation knows."""
    pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _read_header(stream: BinaryIO, name: str, start: bytes) -> Image.Image:
    """Open without decoding, so that the size can be looked at first."""
    try:
        return Image.open(stream, formats=_readable_formats())
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far too many pixels") from error
    except Exception as error:  # as above
        if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            raise UnreadableImageError(
                f"{name} is an HEIC photo, which cannot be opened here. {_USE_INSTEAD}"
            ) from error
        raise UnreadableImageError(f"{name} is not a picture that can be opened. {_USE_INSTEAD}") from error


def _too_large(name: str, size: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"{name} is too large to open ({size}). Make it smaller than {MAX_PIXELS // 1_000_000} megapixels first."
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _to_eight_bit(image).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(_to_srgb(image.convert("RGB"), profile), mask=image.getchannel("A"))
        return page
    return _to_srgb(image, profile)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Bring colours from an ICC profile to sRGB. A profile that is damaged or of another kind of picture is ignored."""
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                return ImageCms.profileToProfile(image, source, _srgb(), outputMode="RGB")
    return image.convert("RGB")


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Scale deep greyscale: 16-bit by its range, other integers and floats by the first usual white that fits them."""
    levels = np.nan_to_num(np.asarray(image).astype(np.float32), copy=False)
    brightest = float(levels.max())
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((value for value in usual if brightest <= value), brightest)
    np.clip(levels, 0.0, white, out=levels)
    levels *= 255.0 / white
    return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8))


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of `source` to `rgb`. A damaged EXIF block does not make a photo unreadable."""
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except Exception:
        return rgb
    operation = _UPRIGHT.get(orientation)
    return rgb if operation is None else rgb.transpose(operation)
