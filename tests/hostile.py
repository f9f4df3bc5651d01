"""Makes hostile files, the same ones each time: several hundred small ones that have ended badly for some program.

Run as a program it sends them all through the loader, the importers and the batch, and prints what became of them.
"""

import io
import pickle
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

SEED = 27
BIG_SIDE = 9_990
"""Side of pictures just within the limit of 100 megapixels."""

Files = Iterator[tuple[str, bytes]]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as a file of a format; HEIC too."""
    buffer = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=60, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 120, height: int = 90, mode: str = "RGB") -> Image.Image:
    """A picture with detail."""
    rng = np.random.default_rng(SEED)
    noise = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def colour_profile(space: str) -> bytes:
    """A profile without the time at which it was made."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
    return content[:24] + bytes(12) + content[36:]


def healthy() -> dict[str, bytes]:
    """One good file of each kind that cameras, phones and programs write."""
    picture = photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    profile = colour_profile("sRGB")
    return {
        "plain.jpg": encode(picture, "JPEG", exif=exif, icc_profile=profile),
        "progressive.jpg": encode(picture, "JPEG", progressive=True, quality=90),
        "rgb.png": encode(picture, "PNG", exif=exif, icc_profile=profile),
        "palette.png": encode(picture.quantize(16), "PNG", transparency=3),
        "deep.png": encode(Image.fromarray(np.arange(90 * 120, dtype=np.uint16).reshape(90, 120) * 6), "PNG"),
        "lossy.webp": encode(picture, "WEBP", exif=exif, icc_profile=profile),
        "lossless.webp": encode(picture.convert("RGBA"), "WEBP", lossless=True),
        "photo.heic": encode(picture, "HEIF"),
        "photo.avif": encode(picture, "AVIF", speed=10),
        "photo.gif": encode(picture.quantize(64), "GIF"),
        "raw.tif": encode(picture, "TIFF"),
        "lzw.tif": encode(picture, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encode(picture, "TIFF", compression="jpeg"),
        "photo.bmp": encode(picture, "BMP"),
    }


def damaged() -> Files:
    """Good files cut off, and with bits flipped, at the start (headers) and anywhere."""
    rng = np.random.default_rng(SEED)
    for name, content in healthy().items():
        stem, suffix = name.split(".")
        for share in (0.02, 0.2, 0.5, 0.8, 0.99):
            yield f"{stem}-cut{share}.{suffix}", content[: int(len(content) * share)]
        for number in range(8):
            flipped = bytearray(content)
            reach = len(content) if number % 2 else min(len(content), 300)
            for place in rng.integers(0, reach, 1 + number):
                flipped[place] ^= 1 << rng.integers(8)
            yield f"{stem}-flipped{number}.{suffix}", bytes(flipped)
        yield f"{stem}-twice.{suffix}", content + content
        yield f"{stem}-zeros.{suffix}", content[: len(content) // 2] + bytes(len(content) // 2)


def unusual() -> Files:
    """Files that are right, and rare: kinds of pixels, sides, animations."""
    picture = photo()
    for mode in ("CMYK", "L", "1", "LA", "P", "RGBA", "YCbCr", "LAB", "I;16", "I", "F"):
        grey = np.asarray(picture.convert("L"))
        deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray(grey.astype(deep[mode])) if mode in deep else picture.convert(mode)
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("BMP", "bmp")):
            try:
                content = encode(image, kind)
            except OSError:  # this format does not have it
                continue
            yield f"mode-{mode.replace(';', '')}.{suffix}", content
    nan = np.full((9, 9), np.nan, np.float32)
    nan[0] = (np.inf, -np.inf, 1e30, -1e30, 0, 1, 255, 65535, np.nan)
    yield "mode-nan.tif", encode(Image.fromarray(nan), "TIFF")
    for side, name in (((1, 1), "dot"), ((30_000, 1), "wide"), ((1, 30_000), "high"), ((16_383, 2), "line")):
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("TIFF", "tif")):
            try:
                yield f"{name}.{suffix}", encode(photo(*side), kind)
            except (OSError, ValueError):  # longer than WebP can be
                continue
        yield f"{name}.bmp", encode(photo(*side), "BMP")
    frames = [picture.rotate(angle) for angle in (20, 40, 60)]
    for kind, suffix in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif"), ("AVIF", "avif")):
        content = encode(picture, kind, save_all=True, append_images=frames)
        yield f"animated.{suffix}", content
        yield f"animated-cut.{suffix}", content[: len(content) * 2 // 3]
    yield "several.jpg", encode(picture, "MPO", save_all=True, append_images=frames)


def metadata() -> Files:
    """Broken profiles and EXIF blocks in good pictures."""
    picture, rng = photo(), np.random.default_rng(SEED)
    good = colour_profile("LAB")
    profiles = {
        "empty": b"\0",
        "noise": rng.bytes(4000),
        "cut": good[:130],
        "lab": good,
        "many": good[:128] + struct.pack(">I", 2**31) + good[132:],
        "long": good + bytes(200_000),
        "huge": struct.pack(">I", 2**31 - 1) + good[4:],
    }
    head = b"Exif\0\0MM\0*\0\0\0\x08"
    entry = struct.pack(">HHHI", 1, 0x0112, 3, 1)
    blocks = {
        "empty": b"Exif\0\0",
        "noise": b"Exif\0\0" + rng.bytes(500),
        "cut": head + entry[:5],
        "loop": head + entry + b"\0\x06\0\0" + struct.pack(">I", 8),
        "far": head + entry + b"\0\x06\0\0" + struct.pack(">I", 2**31),
        "count": b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x0112, 2, 2**31, 8),
        "ifds": head + struct.pack(">HHHII", 1, 0x8769, 4, 1, 8) + struct.pack(">I", 8),
        "orientation": head + entry + b"\xff\xff\0\0" + bytes(4),
        "text": head + struct.pack(">HHHI", 1, 0x0112, 2, 4) + b"six\0" + bytes(4),
    }
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        for name, profile in profiles.items():
            yield f"icc-{name}.{suffix}", encode(picture, kind, icc_profile=profile)
        for name, block in blocks.items() if kind != "TIFF" else ():
            yield f"exif-{name}.{suffix}", encode(picture, kind, exif=block)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *, interlaced: int = 0, more: bytes = b""
) -> bytes:
    """A PNG by hand; `rows` is compressed already, `more` are chunks before them."""

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(3))) if colour == 3 else b""
    parts = (chunk(b"IHDR", header), palette, more, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(count: int) -> bytes:
    """So many zeros, compressed a thousandfold."""
    packer, part = zlib.compressobj(9), bytes(2**20)
    full = [packer.compress(part) for _ in range(count // len(part))]
    return b"".join([*full, packer.compress(bytes(count % len(part))), packer.flush()])


def empty_png(depth: int = 8, colour: int = 6, size: float = 4) -> bytes:
    """A small file of 99.8 megapixels of `size` bytes, all zero: without colour, and transparent if they are RGBA."""
    rows = zeros(BIG_SIDE * (1 + int(np.ceil(BIG_SIDE * size))))
    return png(BIG_SIDE, BIG_SIDE, depth, colour, rows)


def repeated_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    content = encode(photo(side, side), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def bombs() -> Files:
    """Small files that ask for much time or memory."""
    side, kinds = BIG_SIDE, {"rgba": (8, 6, 4), "grey": (8, 0, 1), "palette": (8, 3, 1), "bit": (1, 0, 0.125)}
    for name, kind in kinds.items():
        yield f"bomb-{name}.png", empty_png(*kind)
    yield "bomb-deep.png", png(side, side, 16, 0, zeros(side * (1 + 2 * side)))
    yield "bomb-interlaced.png", png(side, side, 8, 2, zeros(side * (3 * side + 2)), interlaced=1)
    yield "bomb-unfinished.png", png(side, side, 8, 6, zeros(10**6))
    yield "bomb-30000.png", png(30_000, 3_000, 8, 2, zeros(3_000 * (1 + 90_000)))
    for width, height in ((10_010, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 9)):
        yield f"size-{width}x{height}.png", png(width, height, 8, 6, zeros(1000))
    small = zlib.compress(bytes(9 * 28))
    inflated = zeros(300_000_000)
    yield "text-bomb.png", png(9, 9, 8, 2, small, more=chunk(b"zTXt", b"Comment\0\0" + inflated))
    yield "itxt-bomb.png", png(9, 9, 8, 2, small, more=chunk(b"iTXt", b"Comment\0\1\0\0\0" + inflated))
    yield "icc-bomb.png", png(9, 9, 8, 2, small, more=chunk(b"iCCP", b"Profile\0\0" + inflated))
    yield "chunks.png", png(9, 9, 8, 2, small, more=chunk(b"tEXt", b"a\0b") * 60_000)
    yield "long-chunk.png", png(9, 9, 8, 2, small, more=b"\x7f\xff\xff\xfftEXt")
    yield "scans-400.jpg", repeated_scans(400)
    yield "scans-400-large.jpg", repeated_scans(400, 2_000)
    yield "scans-90-large.jpg", repeated_scans(90, 2_000)
    jpeg = encode(photo(), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    for width, height in ((65_500, 65_500), (9_990, 9_990), (19_000, 19_000), (0, 0), (1, 65_535)):
        yield f"size-{width}x{height}.jpg", jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]
    progressive = encode(photo(), "JPEG", progressive=True)
    frame = progressive.index(b"\xff\xc2")
    yield "sampling.jpg", progressive[: frame + 11] + b"\0" + progressive[frame + 12 :]
    yield "size-progressive.jpg", progressive[: frame + 5] + struct.pack(">HH", 9_990, 9_990) + progressive[frame + 9 :]
    yield "markers.jpg", jpeg[:2] + b"\xff\xfe\x00\x02" * 400_000 + jpeg[2:]
    yield "fill.jpg", jpeg[:2] + b"\xff" * 2_000_000 + jpeg[2:]
    yield "no-length.jpg", jpeg[:2] + b"\xff\xe1\x00\x00" + jpeg[2:]
    gif = encode(photo().quantize(16), "GIF")
    yield "size.gif", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    yield "size-within.gif", gif[:6] + struct.pack("<HH", side, side) + gif[10:]
    descriptor = gif.index(b"\x2c", 13 + 3 * 16)
    yield "frame-outside.gif", gif[: descriptor + 1] + struct.pack("<HHHH", 60_000, 9, 5_000, 9) + gif[descriptor + 9 :]
    yield "extensions.gif", gif[:-1] + b"\x21\xfe\x01a\0" * 200_000 + b";"
    bmp = encode(photo(), "BMP")
    for width, height in ((30_000, 30_000), (9_990, 9_990), (2**31 - 1, 1), (9, -(2**31)), (-5, 5)):
        yield f"size-{width}x{height}.bmp", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    run = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 2, 0) + bytes(8)
    yield "runs.bmp", b"BM" + struct.pack("<IHHI", 70, 0, 0, 62) + run + b"\xff\x00" * (side * side // 255) + b"\0\1"
    webp = encode(photo().convert("RGBA"), "WEBP", lossless=True)
    yield "size.webp", webp[:21] + struct.pack("<I", 16_382 | 16_382 << 14) + webp[25:]
    yield "within.webp", webp[:21] + struct.pack("<I", 4_899 | 4_899 << 14) + webp[25:]
    flat = Image.new("RGB", (4_900, 5_000), "red")
    yield "flat.webp", encode(flat, "WEBP", lossless=True, method=0)
    for name in ("HEIF", "AVIF"):
        content = encode(photo(), name, **({"speed": 10} if name == "AVIF" else {}))
        box = content.index(b"ispe") + 8
        for size in (60_000, 7_000, 0):
            yield f"size-{size}.{name.lower()}", content[:box] + struct.pack(">II", size, size) + content[box + 8 :]
    yield from tiffs()


def tiffs() -> Files:
    """TIFFs whose directories lie."""

    def tiff(*entries: tuple[int, int, int, int], after: int = 0, more: bytes = b"") -> bytes:
        fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + struct.pack("<I", after) + more

    size = lambda width, height: ((256, 4, 1, width), (257, 4, 1, height))  # noqa: E731
    strip = (
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, 99),
        (279, 4, 1, 99),
    )
    yield "loop.tif", tiff(*size(9, 9), *strip, after=8)
    yield "size.tif", tiff(*size(2**31, 2**31), *strip)
    yield "within.tif", tiff(*size(BIG_SIDE, BIG_SIDE), *strip)
    yield "count.tif", tiff(*size(9, 9), (273, 4, 2**31, 8), *strip)
    yield "offset.tif", tiff(*size(9, 9), *strip[:3], (273, 4, 1, 2**31), *strip[4:])
    packed = list(strip)
    packed[1] = (259, 3, 1, 8)  # deflate
    content = zeros(BIG_SIDE * BIG_SIDE)
    packed[3], packed[5] = (273, 4, 1, 10 + 12 * 9 + 4), (278, 4, 1, BIG_SIDE)
    packed[6] = (279, 4, 1, len(content))
    yield "deflate.tif", tiff(*size(BIG_SIDE, BIG_SIDE), *packed, more=content)
    yield "many.tif", tiff(*[(40_000 + number, 7, 2**28, 8) for number in range(2_000)])


def strangers() -> Files:
    """What is no photo, under the name of one, and photos under other names."""
    texts = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n%%EOF",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) run\n",
        "php": b"GIF89a<?php system($_GET['c']); ?>",
        "exe": b"MZ" + bytes(200),
        "elf": b"\x7fELF" + bytes(200),
        "nothing": b"",
        "zero": bytes(1000),
        "byte": b"\xff",
        "json": b'{"format": "gra-settings-1"}',
        "xbm": b"#define a_width 9\n#define a_height 9\nstatic char a_bits[] = {" + b"0x00," * 99 + b"};",
        "ppm": b"P3 10000 9900 255\n" + b"0 " * 2_000_000,
        "pgm": b"P5 99999999 1 255\n" + bytes(99),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
        "long": b"\x89PNG\r\n\x1a\n" + bytes(300_000),
    }
    for name, content in texts.items():
        yield f"stranger-{name}.jpg", content
        yield f"stranger-{name}.png", content
    picture = photo()
    for kind in ("ICO", "TGA", "PCX", "PPM", "JPEG2000", "SGI", "IM", "DDS", "PDF", "EPS", "ICNS", "MSP", "SPIDER"):
        try:
            yield f"kind-{kind}.jpg", encode(picture.convert("1") if kind == "MSP" else picture, kind)
        except (OSError, ValueError, KeyError):
            continue
    suffixes = ["jpg", "png", "webp", "gif", "tif", "bmp", "heic", "avif"]
    for number, (name, content) in enumerate(healthy().items()):
        yield f"renamed-{name.replace('.', '-')}.{suffixes[(number + 3) % len(suffixes)]}", content


# --- own edits -------------------------------------------------------------------------------------------------------


class _Call:
    """A pickle that would call something when it is opened."""

    def __reduce__(self) -> tuple:
        return sys.exit, (3,)


def pickles() -> dict[str, bytes]:
    """Pickles that call, allocate, or take forever."""
    start = b"\x80\x04"
    return {
        "call": pickle.dumps(_Call()),
        "name": start + b"c" + b"x" * 12_000 + b"\ny\n.",
        "names": start + b"cx\n" + b"y." * 50_000 + b"\n.",
        "bytes-3e9": start + b"\x96" + struct.pack("<Q", 3 * 10**9) + b".",
        "bytes-1e15": start + b"\x96" + struct.pack("<Q", 10**15) + b".",
        "text-1e15": start + b"\x8d" + struct.pack("<Q", 10**15) + b".",
        "deep": start + b"(" * 300_000 + b"l" * 300_000 + b".",
        "tuples": start + b")" + b"\x85" * 500_000 + b".",
        "memo": start + b"Nr\xff\xff\xff\x7f.",
        "doubling": start + b"]" + b"(h\x000e" * 9 + b"(" + b"2l" * 60 + b".",
        "long": start + b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        "digits": b"I" + b"9" * 500_000 + b"\n.",
        "persistent": start + b"N" + b"Q.",
        "frame": start + b"\x95" + struct.pack("<Q", 2**62) + b"N.",
        "reduce": start + b"cbuiltins\nprint\n(X\x02\0\0\0hitR.",
        "getattr": start + b"cbuiltins\ngetattr\n(cos\nsystem\nX\x02\0\0\0idtR.",
        "empty": b"",
        "stop": b".",
    }


def own_edits() -> Files:
    """Files for the slots of own edits."""
    for name, content in pickles().items():
        for suffix in ("pt", "pth", "npy", "safetensors"):
            yield f"pickle-{name}.{suffix}", content
        for inner in ("archive/data.pkl", "data.pkl"):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(inner, content)
            yield f"zipped-{name}{'-flat' * (inner == 'data.pkl')}.pt", buffer.getvalue()
    magic = b"\x93NUMPY\x01\x00"
    headers = {
        "huge": b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000,), }",
        "object": b"{'descr': '|O', 'fortran_order': False, 'shape': (9,), }",
        "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "nested": b"(" * 5_000,
        "token": b"{'descr': '''",
        "digits": b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 6_000 + b",), }",
        "zero": b"{'descr': '|V0', 'fortran_order': False, 'shape': (999999999999,), }",
        "call": b"__import__('os').system('id')",
    }
    for name, header in headers.items():
        yield f"header-{name}.npy", magic + struct.pack("<H", len(header)) + header + bytes(64)
    tensors = {
        "length": struct.pack("<Q", 2**63),
        "nested": struct.pack("<Q", 20_000) + b'{"a":' * 4_000,
        "offsets": _safetensors(b'{"a":{"dtype":"F32","shape":[512],"data_offsets":[0,99999999999]}}'),
        "shape": _safetensors(b'{"a":{"dtype":"F32","shape":[999999999,999999999],"data_offsets":[0,8]}}'),
        "kind": _safetensors(b'{"a":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}}'),
        "text": _safetensors(b"\xff\xfe"),
    }
    for name, content in tensors.items():
        yield f"tensors-{name}.safetensors", content


def _safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(8)


# --- zips ------------------------------------------------------------------------------------------------------------

NAMES = [
    "//srv/x/authorized.webp",
    "/etc/cron.d/a.png",
    "../../a.png",
    "a/../../b.png",
    "C:a.png",
    "C:\\Windows\\a.png",
    "\\\\server\\share\\a.png",
    "\\\\?\\C:\\a.png",
    "..\\..\\a.png",
    "a\0/b\0.png",
    "CON/nul.png",
    "com1.x/aux .png",
    "a:stream/b.png",
    "./.png/..png",
    "trailing. /dots.../a.png",
    "a-smile+40.png/a.png",
    "not-edited.txt/a.png",
    "\udcff/\ud800.png",
    "x" * 300 + "/" + "ü" * 300 + ".png",
    "/".join("d" * 20) + "/a.png",
    "",
]
"""Names that lead out of a folder, or that some system does not take."""


def changed_zip(change: Callable[[bytearray, int], None]) -> bytes:
    """A zip of one photo, changed by hand after it was made; `change` gets it and where its directory begins."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", healthy()["rgb.png"])
    content = bytearray(buffer.getvalue())
    change(content, content.rindex(b"PK\x01\x02"))
    return bytes(content)


def zips() -> Files:
    """Archives of every hostile kind."""

    def put(offset: int, form: str, value: int, *, local: bool = False) -> bytes:
        return changed_zip(lambda content, at: struct.pack_into(form, content, offset if local else at + offset, value))

    def not_text(content: bytearray, directory: int) -> None:
        struct.pack_into("<H", content, directory + 8, 0x800)
        content[directory + 46] = 0xFF

    yield "empty.zip", b""
    yield "text.zip", b"no zip"
    yield "end-only.zip", b"PK\x05\x06" + bytes(18)
    yield "cut.zip", changed_zip(lambda content, _: content.__delitem__(slice(400, None)))
    yield "elsewhere.zip", b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 400, 0, 0)
    yield "method.zip", put(10, "<H", 77)
    yield "lzma.zip", put(10, "<H", 14)
    yield "bzip.zip", put(10, "<H", 12)
    yield "encrypted.zip", put(8, "<H", 1)
    yield "patched.zip", put(8, "<H", 0x20)
    yield "not-utf8.zip", changed_zip(not_text)
    yield "checksum.zip", put(16, "<I", 7)
    yield "larger.zip", put(24, "<I", 3)
    yield "smaller.zip", put(24, "<I", 50_000)
    yield "terabytes.zip", put(24, "<I", 0xFFFFFFFE)
    yield "beyond.zip", put(42, "<I", 10**9)
    yield "damaged.zip", put(60, "<I", 0xFFFFFFFF, local=True)
    yield "local-name.zip", put(26, "<H", 60_000, local=True)
    yield "extra.zip", put(30, "<H", 60_000)
    yield "comment.zip", changed_zip(lambda content, _: content.extend(b"PK\x05\x06" * 5_000))
    yield "names.zip", _zip({name: b"no picture" for name in NAMES if "\ud800" not in name and "\0" not in name})
    yield "duplicates.zip", changed_zip(lambda content, at: content.__setitem__(slice(at, at), content[at:-22]))
    yield "many.zip", _zip({f"{number}.png": b"" for number in range(20_000)})
    yield "bomb.zip", _zip({"huge.png": bytes(220_000_000)})
    yield "nested.zip", _zip({"inner.zip": _zip({"a.png": b"x"}), "inner.zip.png": _zip({"a.png": b"x"})})
    yield "link.zip", _link_zip()
    yield "photos.zip", _zip(dict(list(damaged())[:20]))


def _zip(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _link_zip() -> bytes:
    buffer, info = io.BytesIO(), zipfile.ZipInfo("link.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


GROUPS = {
    "damaged": damaged,
    "unusual": unusual,
    "metadata": metadata,
    "bombs": bombs,
    "strangers": strangers,
    "own edits": own_edits,
    "zips": zips,
}


def write_corpus(folder: Path, groups: dict[str, Callable[[], Files]] = GROUPS) -> dict[str, list[Path]]:
    """Write the files, a folder for each group; returns their paths."""
    paths: dict[str, list[Path]] = {}
    for group, make in groups.items():
        place = folder / group.replace(" ", "-")
        place.mkdir(parents=True)
        paths[group] = []
        for name, content in make():
            (place / name).write_bytes(content)
            paths[group].append(place / name)
    return paths


def main() -> None:
    """Print what becomes of each group: how many files, what they end in, and what they take."""
    sys.path.append(str(Path(__file__).parent / "unit"))
    import test_hostile

    with tempfile.TemporaryDirectory() as name:
        total: dict[str, int] = {}
        for group, paths in write_corpus(Path(name) / "in").items():
            results = [test_hostile.send_through(path, Path(name) / "out") for path in paths]
            seconds, growth = max(r.seconds for r in results), max(r.growth for r in results)
            counts = {
                "files": len(results),
                "picture": sum(r.outcome == "picture" for r in results),
                "sentence": sum(r.outcome == "sentence" for r in results),
                "traceback": sum(r.outcome == "traceback" for r in results),
                "over 10 s": sum(r.seconds > 10 for r in results),
                "over 500 MB": sum(r.growth > 500e6 for r in results),
                "stall over 0.3 s": sum(r.stall > 0.3 for r in results),
            }
            total = {key: total.get(key, 0) + value for key, value in counts.items()}
            print(f"{group}: {counts}, longest {seconds:.1f} s, most memory {growth / 1e6:.0f} MB")
            for result in sorted(results, key=lambda r: -r.growth)[:3]:
                print(f"    {result.path.name}: {result.growth / 1e6:.0f} MB, {result.seconds:.1f} s, {result.said}")
        print(f"all: {total}")


if __name__ == "__main__":
    main()
