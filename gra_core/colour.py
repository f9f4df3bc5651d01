"""From what a file says of its colours to sRGB, the only colour space that the rest of the program knows.

A file speaks by an ICC profile, by code points (ITU-T H.273: `nclx` of HEIC and AVIF, `cICP` of PNG), by gamma and
chromaticities (PNG), or by the EXIF mark of Adobe RGB; without a word it is sRGB. All that is shown on usual displays
becomes an ICC profile, which LittleCMS applies. PQ and HLG (ITU-R BT.2100) are tone-mapped to the range of sRGB.
"""

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageFilter

REFERENCE_WHITE = 203.0
"""Luminance of white in HDR pictures, cd/m2, which becomes the white of sRGB (ITU-R BT.2408)."""

HLG_PEAK = 1000.0
"""Luminance of the display that HLG is rendered for, cd/m2, at which its system gamma is 1.2 (ITU-R BT.2100)."""

SAME_LEVELS = 1
"""A profile by which no colour moves by more levels than this is sRGB: rounding alone takes one."""

GAMMA_TOLERANCE = 0.05
"""A gamma this close to 1/2.2 stands for the curve of sRGB, as libpng has it."""

CURVE_POINTS = 4096
TABLE_SIDE = 65
PEAK_SHARE = 1e-4
"""Share of the pixels, the brightest ones, that do not count for the peak of an HDR picture."""

D65 = (0.3127, 0.3290)
D50_XYZ = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Chromaticities = tuple[tuple[float, float], ...]
"""x and y of white, red, green and blue."""

Convert = Callable[[Image.Image], Image.Image]

PRIMARIES: dict[int, Chromaticities] = {
    1: (D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: ((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""By code point of ITU-T H.273, table 2."""

SRGB = PRIMARIES[1]
ADOBE_RGB = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256

PQ, HLG = 16, 18


@dataclass(frozen=True)
class Colours:
    """How a picture's levels become light.

    Attributes:
        profile: an ICC profile; the rest then counts for nothing.
        primaries: chromaticities of white, red, green and blue.
        transfer: code point of ITU-T H.273, table 3, or the exponent of a power function as a float.
    """

    profile: bytes | None = None
    primaries: Chromaticities = SRGB
    transfer: int | float = 13


def stated(image: Image.Image, content: bytes) -> Colours:
    """A file's statement of its colours.

    Args:
        image: opened by Pillow.
        content: the whole file: bytes, or mapped memory.
    """
    info, points = image.info, None
    with contextlib.suppress(ValueError, IndexError, struct.error):  # a damaged file says nothing
        if image.format == "PNG":
            points = _points_of_png(content)
        elif image.format == "AVIF":
            points = _points_of_boxes(content)
        elif isinstance(nclx := info.get("nclx_profile"), dict):
            points = nclx.get("color_primaries"), nclx.get("transfer_characteristics")
    profile = info.get("icc_profile")
    if points and (image.format == "PNG" or not profile):  # PNG 3, 4.3: cICP comes first; elsewhere the profile does
        return Colours(None, PRIMARIES.get(points[0], SRGB), points[1])
    if profile:
        return Colours(profile)
    if image.format == "PNG" and "srgb" not in info:
        gamma, primaries = info.get("gamma"), info.get("chromaticity")
        near = not gamma or abs(2.2 * gamma - 1) < GAMMA_TOLERANCE
        named = tuple(zip(primaries[::2], primaries[1::2], strict=True)) if primaries and len(primaries) == 8 else SRGB
        return Colours(None, named, 13 if near else 1 / gamma)
    return Colours(None, ADOBE_RGB, ADOBE_GAMMA) if _is_adobe_rgb(image) else Colours()


def to_srgb(image: Image.Image, mode: str, colours: Colours) -> Convert | None:
    """A function that brings a picture, or any part of it, to 8-bit sRGB.

    Args:
        image: decoded; HDR is mapped by how bright it gets.
        mode: of the parts: without transparency, and of 8 bits a band.
        colours: what the file says.

    Returns:
        A function from pictures of the mode to RGB; None where the colours are sRGB already, or where what the file
        says of them is damaged or does not fit the picture.
    """
    try:
        if colours.profile is None and colours.transfer in (PQ, HLG):
            table = _hdr_table(colours, _peak(image, colours.transfer))
            return lambda part: part.convert("RGB").filter(table)
        if colours.profile is None and mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif colours == Colours():
            return None
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(colours.profile or matrix_profile(colours)))
        return _by_profile(source, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None


def _by_profile(source: ImageCms.ImageCmsProfile, mode: str) -> Convert | None:
    space = source.profile.xcolor_space.strip()
    needs = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}[space] if space in _SPACES else None
    if needs is None or (needs != mode and (needs != "RGB" or mode == "CMYK")):  # it is of another picture
        return None
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(source, srgb, needs, "RGB", intent, flags)

    def convert(part: Image.Image) -> Image.Image:
        return ImageCms.applyTransform(part if part.mode == needs else part.convert(needs), transform)

    return None if needs in ("RGB", "L") and _changes_nothing(convert, needs) else convert


_SPACES = ("RGB", "GRAY", "CMYK", "Lab")


def _changes_nothing(convert: Convert, mode: str) -> bool:
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18, -1, 3)
    probe = np.arange(256, dtype=np.uint8)[None] if mode == "L" else cube
    picture = Image.fromarray(probe)
    before, after = (np.asarray(part, dtype=int) for part in (picture.convert("RGB"), convert(picture)))
    return int(np.abs(after - before).max()) <= SAME_LEVELS


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF says so: DCF 2.0 by the interoperability index R03, some cameras by the colour space 2."""
    try:
        exif = image.getexif()
        return exif.get_ifd(0xA005).get(1, "").startswith("R03") or exif.get_ifd(0x8769).get(0xA001) == 2
    except Exception:  # a damaged EXIF block says nothing
        return False


# --- code points in files ---------------------------------------------------------------------------------------------


def _points_of_png(content: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of the chunk cICP (PNG 3, 11.3.2.6), which comes before the pixels."""
    place = 8
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"cICP":
            return content[place + 8], content[place + 9]
        if kind in (b"IDAT", b"IEND"):
            break
        place += 12 + length
    return None


def _points_of_boxes(content: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of the box `colr` that belongs to the primary item (ISO/IEC 23008-12, 14496-12)."""
    meta = next((start, end) for kind, start, end in _boxes(content, 0, len(content)) if kind == b"meta")
    inside = {kind: (start, end) for kind, start, end in _boxes(content, meta[0] + 4, meta[1])}
    primary_at, _ = inside[b"pitm"]
    primary = int.from_bytes(content[primary_at + 4 : primary_at + (8 if content[primary_at] else 6)], "big")
    inner = {kind: (start, end) for kind, start, end in _boxes(content, *inside[b"iprp"])}
    properties = list(_boxes(content, *inner[b"ipco"]))
    for index in _properties_of(content, inner[b"ipma"][0], primary):
        kind, start, _ = properties[index - 1]
        if kind == b"colr" and content[start : start + 4] == b"nclx":
            return struct.unpack_from(">HH", content, start + 4)
    return None


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, and where its content begins and ends."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", content, start + 8), 16
        size = size or end - start
        if size < head:
            return
        yield kind, start + head, min(start + size, end)
        start += size


def _properties_of(content: bytes, place: int, item: int) -> list[int]:
    """Numbers, from 1, of the properties of an item, from the box `ipma`."""
    version, wide = content[place], content[place + 3] & 1
    (count,) = struct.unpack_from(">I", content, place + 4)
    place += 8
    for _ in range(count):
        number = int.from_bytes(content[place : place + (4 if version else 2)], "big")
        place += 4 if version else 2
        several, size = content[place], 2 if wide else 1
        place += 1
        if number == item:
            parts = (content[at : at + size] for at in range(place, place + several * size, size))
            return [int.from_bytes(part, "big") & (0x7FFF if wide else 0x7F) for part in parts]
        place += several * size
    return []


# --- light ------------------------------------------------------------------------------------------------------------


def light(levels: np.ndarray, transfer: int | float) -> np.ndarray:
    """Light, 0 to 1, of levels from 0 to 1 on a usual display.

    The curves of video (BT.709, BT.601, BT.2020) count as that of sRGB, as in browsers: they describe cameras.
    """
    if isinstance(transfer, float):
        return levels**transfer
    if transfer in (4, 5):
        return levels ** {4: 2.2, 5: 2.8}[transfer]
    if transfer == 8:
        return levels
    if transfer == 17:  # SMPTE ST 428-1
        return np.minimum(levels**2.6 * 52.37 / 48, 1)
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def rgb_to_xyz(primaries: Chromaticities) -> np.ndarray:
    """The 3x3 matrix from linear RGB to XYZ of the same white. Raises LinAlgError, ArithmeticError."""
    with np.errstate(divide="raise", invalid="raise"):
        white, *colours = (np.array([x, y, 1 - x - y]) / np.float64(y) for x, y in primaries)
    matrix = np.stack(colours, axis=1)
    return matrix * np.linalg.solve(matrix, white)


def _adapted(matrix: np.ndarray, white: np.ndarray) -> np.ndarray:
    """A matrix of `rgb_to_xyz` for another white, by Bradford's adaptation (ICC.1:2022, annex E)."""
    scale = np.diag((_BRADFORD @ white) / (_BRADFORD @ matrix.sum(axis=1)))
    return np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD @ matrix


def matrix_profile(colours: Colours) -> bytes:
    """The ICC profile (version 2, matrix and curves) of primaries and a transfer function."""
    matrix = _adapted(rgb_to_xyz(colours.primaries), D50_XYZ)

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * float(value)) for value in values))

    curve = np.rint(65535 * light(np.linspace(0, 1, CURVE_POINTS), colours.transfer)).astype(">u2")
    text = b"text\0\0\0\0-\0\0\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"-\0" + bytes(78)
    trc = b"curv\0\0\0\0" + struct.pack(">I", CURVE_POINTS) + curve.tobytes()
    parts = {b"desc": described + bytes(-len(described) % 4), b"cprt": text, b"wtpt": xyz(D50_XYZ)}
    parts |= {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    parts |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), trc)
    table, data, places = b"", b"", {}
    first = 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        if part not in places:
            places[part] = first + len(data)
            data += part
        table += name + struct.pack(">II", places[part], len(part))
    head = struct.pack(">I4sI4s4s4s", first + len(data), b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(65536 * value) for value in D50_XYZ))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(parts)) + table + data


# --- HDR --------------------------------------------------------------------------------------------------------------


def pq_luminance(levels: np.ndarray) -> np.ndarray:
    """Luminance, cd/m2, of PQ levels from 0 to 1 (SMPTE ST 2084)."""
    power = np.maximum(levels, 0) ** (32 / 2523)
    return 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (8192 / 1305)


def pq_levels(luminance: np.ndarray) -> np.ndarray:
    """The other way round."""
    power = (np.maximum(luminance, 0) / 10_000) ** (1305 / 8192)
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)


def hlg_luminance(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Luminance, cd/m2, of HLG levels (..., 3) from 0 to 1 on a display of HLG_PEAK (ITU-R BT.2100, table 5).

    Args:
        levels: to be converted.
        weights: of red, green and blue in luminance.
    """
    scene = np.where(levels <= 0.5, levels**2 / 3, (np.exp((levels - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return HLG_PEAK * scene * np.maximum(scene @ weights, 1e-9)[..., None] ** 0.2


def _peak(image: Image.Image, transfer: int) -> float:
    """Luminance of the brightest pixels, cd/m2; as if they were grey."""
    image = image.convert("RGB") if image.mode == "P" else image
    counts = np.reshape(image.histogram(), (-1, 256))[: 1 if image.mode.startswith("L") else 3]
    rest = np.cumsum(counts[:, ::-1], axis=1) > PEAK_SHARE * image.width * image.height
    level = (255 - int(rest.argmax(axis=1).min())) / 255
    levels = np.full((1, 3), level)
    return float((pq_luminance(levels) if transfer == PQ else hlg_luminance(levels, np.full(3, 1 / 3))).max())


def _tone_mapped(luminance: np.ndarray, peak: float) -> np.ndarray:
    """Bring luminance, band by band, from `peak` to REFERENCE_WHITE by the curve of ITU-R BT.2390-10, 5.4.1."""
    if peak <= REFERENCE_WHITE:
        return luminance
    top = pq_levels(np.array(peak))
    level, white = np.minimum(pq_levels(luminance) / top, 1), pq_levels(np.array(REFERENCE_WHITE)) / top
    knee = 1.5 * white - 0.5
    t = np.maximum(level - knee, 0) / (1 - knee)
    curved = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * white
    return pq_luminance(np.where(level < knee, level, curved) * top)


def _hdr_table(colours: Colours, peak: float) -> ImageFilter.Color3DLUT:
    steps = np.linspace(0, 1, TABLE_SIDE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    levels, matrix = np.stack([red, green, blue], -1), rgb_to_xyz(colours.primaries)
    luminance = pq_luminance(levels) if colours.transfer == PQ else hlg_luminance(levels, matrix[1])
    linear = _tone_mapped(luminance, peak) / REFERENCE_WHITE
    srgb = rgb_to_xyz(SRGB)
    linear = linear @ (np.linalg.inv(srgb) @ _adapted(matrix, srgb.sum(axis=1))).T
    size = np.abs(linear)  # nothing is cut off before colours between those of the table are found
    shown = np.sign(linear) * np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)
    return ImageFilter.Color3DLUT(TABLE_SIDE, shown.clip(-1, 1.9).astype(np.float32).ravel())
