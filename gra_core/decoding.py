"""Decodes pictures, in a worker of `gra_core.sandbox`: nothing here trusts the file, and torch is not loaded.

The pixels go straight into memory that the program sees as well, in rows of 4 bytes a pixel as Pillow keeps RGB. Most
large pictures are decoded into it and made RGB there, a strip at a time, so that no second copy is ever needed.
"""

import contextlib
import functools
import importlib
import mmap
import re
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from gra_core.colour import Colours, Convert, stated, to_srgb
from gra_core.errors import UnreadableImageError, refusing
from gra_core.sandbox import Shared

MAX_PIXELS = 100_000_000
"""Largest picture that comes out, in pixels. Larger ones are opened at half their size: JPEGs of up to four times as
many pixels, which are decoded so, and others of up to MAX_WHOLE_PIXELS, which are decoded whole before."""

MAX_BYTES = 480_000_000
"""Most memory that decoding may take, but for a copy that turning needs; what takes more is opened at half its size."""

MAX_WHOLE_PIXELS = 200_000_000
MAX_WHOLE_BYTES = 1_600_000_000
"""Largest picture that is decoded to be opened at half its size, and most memory that this may take."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""Formats that Pillow may try. Short on purpose: some of its other readers start external programs (EPS), and no camera
writes PPM."""

SEVERAL_COPIES = {"WEBP": (25_000_000, 20), "AVIF": (50_000_000, 16), "HEIF": (50_000_000, 16)}
"""Formats whose decoders keep several copies: the largest picture of them that comes out, pixels, and bytes that each
takes."""

MAX_SCANS = 100
"""Scans of a JPEG, each of which goes over all of its pixels. Progressive ones have about ten."""

MARGIN_BYTES = 200_000_000
"""Memory that decoding may take besides pixels: tables, metadata, the file itself."""

METADATA_BYTES = 2**25
"""Largest colour profile and text of a PNG, unpacked: what is larger is left out."""

STRIP_PIXELS = 2**16

PARTLY_READ = ("JPEG", "PNG", "BMP", "TIFF")
"""Formats of which that is read which is there when a part of the file is missing; others then give nothing."""

MOST_MISSING = 1 / 3
"""Share of the rows that may be missing."""

GREY = 127
"""Level of what is missing."""

_JUNK = bytes(range(7, 247, 3))

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

SOME_MISSING = "A part of the file is missing: {} of the photo is grey. Copy or download the file again if you can."
HALVED = "The photo is too large to be opened whole ({} x {} pixels): it was opened at half its size."
COARSE = "The end of the file is missing, so that the photo lacks fine detail. Copy or download it again if you can."

_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""The next marker of a JPEG after compressed pixels, in which 0xFF is followed by 0 or a restart marker."""


def read_header(source: Shared, name: str) -> dict[str, int]:
    """Look at a picture without decoding it.

    Args:
        source: the file.
        name: what it is called in messages.

    Returns:
        `pixels` of the result; `memory`: most bytes that decoding it takes; `halved`: 1 if it comes at half its size.

    Raises:
        UnreadableImageError: it is not a picture, too large, or made to take forever.
    """
    with refusing(UnreadableImageError, _DAMAGED.format(name)), _opened(source, name) as (image, full):
        if _kind(image) == "JPEG":
            _check_scans(source, name)
        width, height = _halved(image.size) if _is_halved(image) else image.size
        decoded, pixels, need = image.width * image.height, width * height, _memory(image)
        if pixels > MAX_PIXELS or decoded > MAX_WHOLE_PIXELS or need > MAX_WHOLE_BYTES:
            limit = min(MAX_WHOLE_PIXELS, MAX_WHOLE_BYTES * decoded // need)
            raise _too_large(name, f"{full[0]} x {full[1]} pixels", limit)
        turning = decoded * 4 if _is_placed(image) and not _decodes_into_place(image) else 0
        return {"pixels": pixels, "memory": need + turning + source.size, "halved": int((width, height) != full)}


def read_pixels(source: Shared, target: Shared, name: str) -> dict[str, object]:
    """Decode a picture as the person who took it sees it, into `target`: 4 bytes a pixel, rows from the top.

    The fourth byte is the transparency, if there is some: the other three then have white below what is transparent.

    Returns:
        `size`: width and height; `transparent`: whether any pixel is; `notes`: sentences on what was done.

    Raises:
        UnreadableImageError: the file is damaged, or too much of it is missing.
    """
    with refusing(UnreadableImageError, _DAMAGED.format(name)):
        memory = target.map()
        with _opened(source, name) as (image, full):
            notes = [HALVED.format(*full)] if _is_halved(image) or image.size != full else []
            try:
                in_place = _load(image, memory)
            except (OSError, SyntaxError, ValueError, IndexError, EOFError):
                image.close()
            else:
                return _finished(image, source, memory, in_place, notes)
        return _read_partly(source, memory, name, notes)


def picture_over(memory: mmap.mmap, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture of the pixels in `memory`, 4 bytes each for RGB and RGBA, 1 for L; it keeps the memory mapped."""
    image = Image.new(mode, (0, 0))
    return image._new(Image.core.map_buffer(memory, size, "raw", 0, (mode, 0, 1)))


@contextlib.contextmanager
def _opened(source: Shared, name: str) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """The picture, its header read, and its full size; a JPEG that is too large is set to decode at half of it."""
    with source.open() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on metadata, and on sizes that MAX_PIXELS allows
        Image.MAX_IMAGE_PIXELS = 2 * MAX_PIXELS  # Pillow refuses twice as many on sight
        PngImagePlugin.MAX_TEXT_CHUNK = METADATA_BYTES
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # damaged metadata are passed over; `_load` says what holds for pixels
        start = stream.read(16)
        stream.seek(0)
        if not start:
            raise UnreadableImageError(f"{name} is empty. Choose another photo.")
        wrong = f"{name} is not a picture that can be opened. {_USE_INSTEAD}"
        if any(Image.OPEN[kind][1](start) for kind in readable_formats() if Image.OPEN[kind][1]):
            wrong = _DAMAGED.format(name)
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
    if not _is_halved(image):
        return _whole_memory(image)
    width, height = _halved(image.size)
    decoded = image.width * image.height * _STORED.get(image.mode, 4)
    return (_whole_memory(image) if _kind(image) in SEVERAL_COPIES else decoded) + 4 * width * height


def _whole_memory(image: Image.Image) -> int:
    """As `_memory`, when it comes out at its full size."""
    pixels = image.width * image.height
    if _kind(image) in SEVERAL_COPIES:
        return pixels * SEVERAL_COPIES[_kind(image)][1]
    need = pixels * (4 if _is_placeable(image) else 4 + _STORED.get(image.mode, 4))
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


def _is_halved(image: Image.Image) -> bool:
    """Whether the decoded picture is brought to half its size: it or its decoding is too large. JPEG does so itself."""
    kind, pixels = _kind(image), image.width * image.height
    if kind in SEVERAL_COPIES:
        return pixels > SEVERAL_COPIES[kind][0]
    return kind != "JPEG" and (pixels > MAX_PIXELS or _whole_memory(image) > MAX_BYTES)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def _is_placeable(image: Image.Image) -> bool:
    """Whether pixels of this kind can be decoded to where the result goes: they take four bytes, too."""
    return image.format in ("JPEG", "MPO", "PNG", "BMP", "TIFF") and image.mode in ("RGB", "RGBA", "CMYK")


def _is_placed(image: Image.Image) -> bool:
    """Whether it is decoded to where the result goes, if it need not be turned."""
    return _is_placeable(image) and not _is_halved(image)


def _too_large(name: str, size: str, limit: int) -> UnreadableImageError:
    return UnreadableImageError(
        f"{name} is too large to open ({size}). Make it smaller than {limit // 1_000_000} megapixels first."
    )


def _check_scans(source: Shared, name: str) -> None:
    """Refuse a JPEG of more than MAX_SCANS scans, each of which a small file may repeat at great cost."""
    with source.map(writable=False) as content:
        for number, _ in enumerate(_scans(content)):
            if number >= MAX_SCANS:
                raise UnreadableImageError(f"{name} has too many layers to open. {_USE_INSTEAD}")


def _scans(content: mmap.mmap) -> Iterator[bytes]:
    """The headers of a JPEG's scans (ITU-T T.81, B.2.3)."""
    place, end = 2, len(content)
    while place + 4 <= end and (found := _MARKER.search(content, place)):
        place, marker = found.end(), content[found.end() - 1]
        if marker == 0xD9:  # end of the picture; what follows is not decoded
            return
        if marker == 0x01:  # a marker without content
            continue
        length = int.from_bytes(content[place : place + 2], "big")
        if marker == 0xDA:
            yield content[place + 2 : place + length]
        place += length


def _load(image: Image.Image, memory: mmap.mmap, fill: int | None = None) -> bool:
    """Decode the pixels; whether they lie in `memory` then.

    Args:
        image: opened.
        memory: of the result.
        fill: number that decides on what stands in place of pixels that are missing; None where none may be.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = fill is not None
    size, target = image.size, None
    if in_place := _decodes_into_place(image):
        target = Image.core.map_buffer(memory, size, "raw", 0, (image.mode, 0, 1))
    if fill is not None:
        if target is None:
            levels = (GREY + fill,) * Image.getmodebands(image.mode)
            target = Image.core.fill(image.mode, size, levels if len(levels) > 1 else levels[0])
        else:
            np.frombuffer(memory, np.uint8)[:] = GREY + fill
        if _kind(image) == "JPEG":  # libjpeg fills up a file that says that it ends
            read, rest = image.fp.read, iter([(_JUNK if fill else b"") + b"\xff\xd9"])
            image.load_read = lambda size: read(size) or next(rest, b"")
    if target is not None:
        image.im = target
    image.load()
    if image.width * image.height != size[0] * size[1]:
        raise ValueError("decoded to another size")
    return in_place and image.im is target


def _read_partly(source: Shared, memory: mmap.mmap, name: str, notes: list[str]) -> dict[str, object]:
    """As `read_pixels`, of a file of which a part is missing.

    It is decoded twice, with something else in place of what is missing: rows that come out alike are the photo's.
    """
    rows = []
    for fill in (1, 0):
        with _opened(source, name) as (image, _):
            if _kind(image) not in PARTLY_READ:
                raise UnreadableImageError(_DAMAGED.format(name))
            lacks = _lacking(source, len(image.layer)) if _kind(image) == "JPEG" else "rows"
            in_place = _load(image, memory, fill)
            rows.append(_checksums(image))
            if fill:
                continue
            other = [one != other for one, other in zip(*rows, strict=True)]
            if _kind(image) == "JPEG" and any(other):  # it is there up to a row, and fills up the rest alike
                other[other.index(True) :] = [True] * (image.height - other.index(True))
            share = sum(other) / image.height
            if lacks == "all" or (lacks == "rows" and share > MOST_MISSING):
                raise UnreadableImageError(_DAMAGED.format(name))
            if share:
                notes.append(COARSE if lacks == "detail" else SOME_MISSING.format(_percent(share)))
            return _finished(image, source, memory, in_place, notes)
    raise AssertionError


def _lacking(source: Shared, components: int) -> str:
    """The missing part of a JPEG that ends early: "rows", "detail" (of a progressive one), or "all" (even coarsely)."""
    with source.map(writable=False) as content:
        scans = list(_scans(content))
    first, found, before = scans[0][1], set(), False  # pairs of a component and a coefficient
    wanted = {(first, number) for number in range(64)}  # of lightness all, of the others the mean
    for scan in scans:
        before = wanted <= found and len({part for part, _ in found}) == components
        found |= {(part, number) for part in scan[1 : 1 + 2 * scan[0] : 2] for number in range(scan[-3], scan[-2] + 1)}
    complete = wanted <= found and len({part for part, _ in found}) == components
    return "detail" if before else "rows" if complete else "all"


def _checksums(image: Image.Image) -> list[int]:
    """A checksum for each row."""
    sums, rows = [], max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        size, content = strip.height, memoryview(strip.tobytes())
        step = len(content) // size
        sums += [zlib.crc32(content[row * step : (row + 1) * step]) for row in range(size)]
    return sums


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "less than 1 %"


def _finished(
    image: Image.Image, source: Shared, memory: mmap.mmap, in_place: bool, notes: list[str]
) -> dict[str, object]:
    """Turn a decoded picture upright and its colours to sRGB, in `memory`; the answer of `read_pixels`."""
    operation, size, transparent = _UPRIGHT.get(_orientation(image)), image.size, False
    if in_place and operation is not None:
        image, in_place = image.copy(), False
    turned = operation in (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])
    halved = _is_halved(image)
    size = _halved(size) if halved else size
    width, height = size[::-1] if turned else size
    with source.map(writable=False) as content:
        colours = stated(image, content)
    to_rgb = _converter(image, colours)
    if not in_place or to_rgb is not None or image.mode != "RGB":
        pages = {mode: picture_over(memory, (width, height), mode) for mode in ("RGB", "RGBA")}
        rows = 2 * max(1, STRIP_PIXELS // image.width // 2)
        for top in range(0, image.height, rows):
            strip = image.crop((0, top, image.width, min(top + rows, image.height)))
            strip = to_rgb(strip) if to_rgb else strip.convert("RGB")
            transparent |= strip.mode == "RGBA" and strip.getchannel("A").getextrema() != (255, 255)
            if halved:
                bands = [band.reduce(2) for band in strip.split()]  # Pillow would weigh colours by opacity
                strip, top = Image.merge(strip.mode, bands), top // 2  # noqa: PLW2901
            box = (0, top, strip.width, top + strip.height)
            if operation is not None:
                strip = strip.transpose(operation)
            pages[strip.mode].im.paste(strip.im, _moved(box, size, operation))
    return {"size": [width, height], "transparent": transparent, "notes": notes}


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


def _converter(image: Image.Image, colours: Colours) -> Convert | None:
    """A function that makes a strip of this picture RGB, or RGBA where transparent; None where a conversion is enough.

    Deep greyscale is scaled. Below what is transparent lies white.
    """
    if image.mode.startswith(("I", "F")):
        return _to_eight_bit(image, colours)
    clear = image.has_transparency_data and not _is_void(image)
    mode = "L" if image.mode == "LA" else "RGB" if clear or image.mode in ("RGBA", "P") else image.mode
    to_rgb = to_srgb(image, mode, colours)
    if not clear:
        return to_rgb and (lambda strip: to_rgb(strip if strip.mode == mode else strip.convert(mode)))

    def flatten(strip: Image.Image) -> Image.Image:
        strip = strip.convert("RGBA")
        alpha, shown = strip.getchannel("A"), strip.convert(mode)
        shown = to_rgb(shown) if to_rgb else shown.convert("RGB")
        page = shown
        if alpha.getextrema() != (255, 255):  # unlike most screenshots
            page = Image.new("RGB", strip.size, "white")
            page.paste(shown, mask=alpha)
        page.putalpha(alpha)
        return page

    return flatten


def _is_void(image: Image.Image) -> bool:
    """Whether the transparency says nothing: programs that write BMP leave that byte at 0."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _to_eight_bit(image: Image.Image, colours: Colours) -> Convert:
    """Scale deep greyscale: 16-bit by its range, other integers and floats by the first usual white that fits them."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    to_rgb = to_srgb(ramp, "L", colours)
    curve = np.asarray(to_rgb(ramp))[0, :, 1].astype(np.float32) if to_rgb else None

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
        if curve is not None:
            levels = np.interp(levels, np.arange(256), curve)
        return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")

    return scale


def _orientation(image: Image.Image) -> int | None:
    """EXIF orientation. A damaged EXIF block does not make a photo unreadable."""
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        return None
