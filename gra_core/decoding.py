"""Decodes pictures, in a worker of `gra_core.sandbox`: nothing here trusts the file, and torch is not loaded.

The pixels go straight into memory that the program sees as well, in rows of 4 bytes a pixel as Pillow keeps RGB. Most
large pictures are decoded into it and made RGB there, a strip at a time, so that no second copy is ever needed.
"""

import contextlib
import functools
import importlib
import io
import mmap
import re
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from gra_core.errors import UnreadableImageError, refusing
from gra_core.sandbox import Shared

MAX_PIXELS = 100_000_000
"""Largest picture that is opened, in pixels. A larger JPEG, up to four times as large, is opened at half its size."""

MAX_BYTES = 480_000_000
"""Most memory that decoding may take, but for a copy that turning needs: more than pixels of some kinds would take."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""What Pillow may try. Short on purpose: some of its other readers start external programs (EPS), and PPM is written by
no camera."""

SEVERAL_COPIES = {"WEBP": (25_000_000, 20), "AVIF": (50_000_000, 16), "HEIF": (50_000_000, 16)}
"""Formats whose decoders keep several copies: the largest picture of them, pixels, and bytes that each takes."""

MAX_SCANS = 100
"""Scans of a JPEG, each of which goes over all of its pixels. Progressive ones have about ten."""

MARGIN_BYTES = 200_000_000
"""What decoding may take besides pixels: tables, metadata, the file itself."""

STRIP_PIXELS = 2**16

_DAMAGED = "{} is damaged or only partly there. Copy or download it again, or choose another photo."
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

_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""The next marker of a JPEG after compressed pixels, in which 0xFF is followed by 0 or a restart marker."""


def read_header(source: Shared, name: str) -> dict[str, int]:
    """Look at a picture without decoding it.

    Args:
        source: the file.
        name: what it is called in messages.

    Returns:
        `pixels`, and `memory`: most bytes that decoding it takes.

    Raises:
        UnreadableImageError: it is not a picture, too large, or made to take forever.
    """
    with refusing(UnreadableImageError, _DAMAGED.format(name)), _opened(source, name) as (image, full):
        pixels, kind = image.width * image.height, _kind(image)
        if kind == "JPEG":
            _check_scans(source, name)
        limit, _ = SEVERAL_COPIES.get(kind, (MAX_PIXELS, 0))
        need = _memory(image)
        if pixels > limit or (need > MAX_BYTES and kind not in SEVERAL_COPIES):
            width, height = full
            limit = min(limit, MAX_BYTES * width * height // need)
            raise _too_large(name, f"{width} x {height} pixels", limit)
        turning = pixels * 4 if _is_placed(image) and not _decodes_into_place(image) else 0
        return {"pixels": pixels, "memory": need + turning + source.size}


def read_pixels(source: Shared, target: Shared, name: str) -> list[int]:
    """Decode a picture as the person who took it sees it, into `target`: 4 bytes a pixel, rows from the top.

    Returns:
        Width and height.

    Raises:
        UnreadableImageError: the file is damaged.
    """
    with refusing(UnreadableImageError, _DAMAGED.format(name)), _opened(source, name) as (image, _):
        return list(_decode(image, target.map()))


def picture_over(memory: mmap.mmap, size: tuple[int, int]) -> Image.Image:
    """An RGB picture whose pixels are those in `memory`, 4 bytes each; it keeps the memory mapped."""
    image = Image.new("RGB", (0, 0))
    return image._new(Image.core.map_buffer(memory, size, "raw", 0, ("RGB", 0, 1)))


@contextlib.contextmanager
def _opened(source: Shared, name: str) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """The picture, its header read, and its full size; a JPEG that is too large is set to decode at half of it."""
    with source.open() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on metadata, and on sizes that MAX_PIXELS allows
        Image.MAX_IMAGE_PIXELS = 2 * MAX_PIXELS  # Pillow refuses twice as many on sight
        start = stream.read(16)
        stream.seek(0)
        if not start:
            raise UnreadableImageError(f"{name} is empty. Choose another photo.")
        wrong = f"{name} is not a picture that can be opened. {_USE_INSTEAD}"
        if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            wrong = f"{name} is an HEIC photo, which cannot be opened here. {_USE_INSTEAD}"
        with refusing(UnreadableImageError, wrong):
            try:
                image = Image.open(stream, formats=readable_formats())
            except Image.DecompressionBombError as error:
                raise _too_large(name, "far too many pixels", MAX_PIXELS) from error
        with image:
            width, height = image.size
            if _kind(image) == "JPEG" and (width * height > MAX_PIXELS or _memory(image) > MAX_BYTES):
                image.draft(image.mode, (width // 2, height // 2))
            yield image, (width, height)


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that this installation knows; loads their readers."""
    for package in ("pillow_heif", "pi_heif"):  # the second has no encoder, see NOTICE
        with contextlib.suppress(ImportError):
            importlib.import_module(package).register_heif_opener()
            break
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _kind(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format


def _memory(image: Image.Image) -> int:
    """Most bytes that decoding takes, the result included."""
    pixels = image.width * image.height
    if _kind(image) in SEVERAL_COPIES:
        return pixels * SEVERAL_COPIES[_kind(image)][1]
    need = pixels * (4 if _is_placed(image) else 4 + _STORED.get(image.mode, 4))
    if image.info.get("progressive"):  # the coefficients of all scans, two bytes each, of the full size
        widest, *_ = sorted((across * down for _, across, down, _ in image.layer), reverse=True)
        samples = sum(across * down for _, across, down, _ in image.layer) / widest
        scale = getattr(image, "decoderconfig", ())
        full = pixels * (scale[0] ** 2 if scale else 1)
        need += round(2 * samples * full)
    if image.format == "TIFF":  # a strip or tile that libtiff unpacks
        rows = min(image.tag_v2.get(278, image.height), image.height)
        need += rows * image.width * min(len(image.tag_v2.get(258, (8,))), 4)
    return need


_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes that Pillow takes for a pixel, where it is not four."""


def _is_placed(image: Image.Image) -> bool:
    """Whether pixels of this kind can be decoded to where the result goes: they take four bytes, too."""
    return image.format in ("JPEG", "MPO", "PNG", "BMP", "TIFF") and image.mode in ("RGB", "RGBA", "CMYK")


def _too_large(name: str, size: str, limit: int) -> UnreadableImageError:
    return UnreadableImageError(
        f"{name} is too large to open ({size}). Make it smaller than {limit // 1_000_000} megapixels first."
    )


def _check_scans(source: Shared, name: str) -> None:
    """Refuse a JPEG of more than MAX_SCANS scans, each of which a small file may repeat at great cost."""
    with source.map(writable=False) as content:
        scans, place, end = 0, 2, len(content)
        while place + 4 <= end and (found := _MARKER.search(content, place)):
            place, marker = found.end(), content[found.end() - 1]
            if marker == 0xD9:  # end of the picture; what follows is not decoded
                return
            if marker == 0x01:  # a marker without content
                continue
            scans += marker == 0xDA
            if scans > MAX_SCANS:
                raise UnreadableImageError(f"{name} has too many layers to open. {_USE_INSTEAD}")
            place += int.from_bytes(content[place : place + 2], "big")


def _decode(image: Image.Image, memory: mmap.mmap) -> tuple[int, int]:
    size, target, in_place = image.size, None, False
    if _decodes_into_place(image):
        target = Image.core.map_buffer(memory, size, "raw", 0, (image.mode, 0, 1))
        image.im = target
    image.load()
    in_place = target is not None and image.im is target
    operation = _UPRIGHT.get(_orientation(image))
    if in_place and operation is not None:
        image = image.copy()
    if image.width * image.height != size[0] * size[1]:
        raise ValueError("decoded to another size")
    to_rgb, turned = _converter(image), operation in (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])
    width, height = image.size[::-1] if turned else image.size
    page = picture_over(memory, (width, height))
    if in_place and operation is None and image.mode == "RGB" and to_rgb is _plain:
        return width, height
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = to_rgb(image.crop(box))
        if operation is not None:
            strip = strip.transpose(operation)
        page.im.paste(strip.im, _moved(box, image.size, operation))
    return width, height


def _decodes_into_place(image: Image.Image) -> bool:
    """Whether it is decoded to where the result goes: not where it has to be turned. PNG may say so at its end."""
    return _is_placed(image) and (image.format == "PNG" or _orientation(image) not in _UPRIGHT)


def _moved(box: tuple[int, int, int, int], size: tuple[int, int], operation: Image.Transpose | None) -> tuple:
    """Where a strip over the whole width of a picture of `size` goes when the picture is transposed."""
    _, top, width, bottom = box
    height = size[1]
    flipped = (height - bottom, height - top)
    if operation in (None, Image.Transpose.FLIP_LEFT_RIGHT):
        return box
    if operation in (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM):
        return (0, flipped[0], width, flipped[1])
    if operation in (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90):
        return (top, 0, bottom, width)
    return (flipped[0], 0, flipped[1], width)


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes a strip of this picture RGB. Transparent parts become white, deep greyscale is scaled."""
    if image.mode.startswith(("I", "F")):
        return _to_eight_bit(image)
    to_srgb = _to_srgb("RGB" if image.has_transparency_data else image.mode, image.info.get("icc_profile"))
    if not image.has_transparency_data:
        return to_srgb

    def flatten(strip: Image.Image) -> Image.Image:
        strip = strip.convert("RGBA")
        alpha, colours = strip.getchannel("A"), to_srgb(strip.convert("RGB"))
        if alpha.getextrema() == (255, 255):  # as in most screenshots
            return colours
        page = Image.new("RGB", strip.size, "white")
        page.paste(colours, mask=alpha)
        return page

    return flatten


def _plain(strip: Image.Image) -> Image.Image:
    return strip.convert("RGB")


def _to_srgb(mode: str, profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    """What brings colours from an ICC profile to sRGB. A profile that is damaged or of another kind is ignored."""
    if not profile:
        return _plain
    mode = mode if mode in ("RGB", "L", "CMYK") else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return _plain
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return _plain
    return lambda strip: ImageCms.applyTransform(strip if strip.mode == mode else strip.convert(mode), transform)


def _to_eight_bit(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Scale deep greyscale: 16-bit by its range, other integers and floats by the first usual white that fits them."""

    def levels_of(strip: Image.Image) -> np.ndarray:
        return np.nan_to_num(np.asarray(strip).astype(np.float32), copy=False)

    rows = max(1, STRIP_PIXELS // image.width)
    tops = range(0, image.height, rows)
    strips = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in tops)
    brightest = max(float(levels_of(strip).max()) for strip in strips)
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((value for value in usual if brightest <= value), brightest)

    def scale(strip: Image.Image) -> Image.Image:
        levels = np.clip(levels_of(strip), 0.0, white)
        levels *= 255.0 / white
        return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8)).convert("RGB")

    return scale


def _orientation(image: Image.Image) -> int | None:
    """EXIF orientation. A damaged EXIF block does not make a photo unreadable."""
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        return None
