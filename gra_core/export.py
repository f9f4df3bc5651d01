"""Writing results: picture formats, the mark that says "edited by AI", file names, and animated sweeps.

The mark is metadata that other programs read: the IPTC digital source type in an XMP packet, and plain text where the
format has a place for it. A visible line in a corner can be added. Nothing of the original's metadata (place, time,
camera) is copied.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from gra_core import __version__
from gra_core.directions.registry import EditDirection
from gra_core.errors import GRAError

PROGRAM = f"GRA Portrait Editor {__version__}"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""A photo of which a trained model changed parts: https://cv.iptc.org/newscodes/digitalsourcetype/."""

FORMATS = {
    ".png": ("PNG", {"compress_level": 3}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
}
"""Output formats by suffix, with Pillow's name and options for each."""

MAX_SIDES = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}
"""Longest side that a format can hold, pixels."""

FORMAT_CHOICES = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp"}
"""Choice on the page -> the suffix."""

VISIBLE_MARK = "AI-edited"
MAX_NAME = 120
MAX_STEM = 40
"""Characters of a result's name, and those that it has of the photo's."""

_JOINERS = "\u200c\u200d"
"""Joiner of emoji, and of letters of some scripts: not printable by itself, and not visible."""

_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{name}{number}" for name in ("COM", "LPT") for number in "0123456789¹²³")}
"""Names that Windows keeps for devices, with any suffix."""

FRAME_MILLISECONDS = 120
REST_MILLISECONDS = 720
"""How long an animation shows each step, and its two ends: multiples of a video's 40 ms."""

VIDEO_MILLISECONDS = 40
VIDEO_ROUNDS = 2
"""Time of one frame of a video, and how often it goes there and back: most players do not repeat it."""

XMP_OF_GIF = b"\x21\xff\x0bXMP DataXMP", b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
"""Bytes before and after XMP in a GIF: an application extension, and bytes that lead any reader of blocks to the
end of it (XMP specification, part 3, 1.1.2)."""

XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""Name of the box that holds XMP in an MP4 (XMP specification, part 3, 1.1.4)."""


def describe(strengths: Mapping[str, float], edits: Mapping[str, EditDirection]) -> str:
    """The settings in words, such as "Smile +60, Age -30"; "no edit" when all are 0."""
    parts = [f"{edits[key].label} {value:+g}" for key, value in strengths.items() if value]
    return ", ".join(parts) or "no edit"


def result_name(stem: str, strengths: Mapping[str, float], suffix: str) -> str:
    """File name after the photo and the settings: "me-smile+60-age-30.png"."""
    clean = harmless(harmless(stem).strip("-.")[:MAX_STEM]) or "portrait"
    settings = "".join(f"-{key}{value:+g}" for key, value in strengths.items() if value) or "-unedited"
    return f"{clean}{settings}"[: MAX_NAME - len(suffix)] + suffix


def harmless(name: str) -> str:
    """A file's or a folder's name without what some system does not take: letters of all scripts and emoji stay."""
    name = "".join(letter if _is_allowed(letter) else "-" for letter in name)
    return _not_reserved(name.lstrip(f" {_JOINERS}").rstrip(f". {_JOINERS}"))


def _is_allowed(letter: str) -> bool:
    return letter not in '<>:"/\\|?*' and (letter.isprintable() or letter in _JOINERS)


def _not_reserved(name: str) -> str:
    """A file name that Windows does not keep for a device."""
    return f"_{name}" if name.split(".", maxsplit=1)[0].strip().upper() in _RESERVED else name


def check_size(size: tuple[int, int], suffix: str) -> None:
    """Make sure that a format can hold a picture of this size, before it is made.

    Args:
        size: width and height, pixels.
        suffix: one of FORMATS, which decides on the format.

    Raises:
        GRAError: it cannot.
    """
    name, _ = FORMATS[suffix.lower()]
    if max(size) > MAX_SIDES[name]:
        raise GRAError(
            f"A {name} picture has at most {MAX_SIDES[name]} pixels a side; this one has {max(size)}. "
            "Choose another format."
        )


def save_picture(
    image: Image.Image, target: str | Path | BinaryIO, suffix: str, note: str = "", *, visible_mark: bool = False
) -> None:
    """Write a picture with the mark "edited by AI".

    Args:
        image: RGB, or RGBA, which JPEG gets on white.
        target: a path, or a binary stream.
        suffix: one of FORMATS, which decides on the format.
        note: what was edited, in words, for the metadata.
        visible_mark: whether to write VISIBLE_MARK into the lower right corner, too.

    Raises:
        GRAError: the format cannot hold a picture of this size.
    """
    check_size(image.size, suffix)
    name, options = FORMATS[suffix.lower()]
    image = with_visible_mark(image) if visible_mark else image
    if name == "JPEG" and image.mode == "RGBA":
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=image)
        image = page
    _without_metadata(image).save(target, format=name, **options, **_metadata(name, note))


def with_visible_mark(image: Image.Image) -> Image.Image:
    """A copy with VISIBLE_MARK in its lower right corner, opaque and readable on any background."""
    image = image.copy()
    size = max(12, round(min(image.size) / 40))
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(VISIBLE_MARK)
    width, height, pad = right - left, bottom - top, round(0.5 * size)
    box = (image.width - width - 3 * pad, image.height - height - 3 * pad, image.width - pad, image.height - pad)
    plate = image.crop(box).convert("RGB")
    plate = Image.blend(plate, Image.new("RGB", plate.size, "black"), 0.55)
    ImageDraw.Draw(plate).text((pad - left, pad - top), VISIBLE_MARK, font=font, fill="white")
    image.paste(plate, box[:2])
    return image


def sweep_values(edit: EditDirection, steps: int) -> list[float]:
    """Slider values of an animation: from the slider's lower end to its upper end in equal steps."""
    return [round(edit.minimum + (edit.maximum - edit.minimum) * i / (steps - 1)) for i in range(steps)]


def animation_formats() -> dict[str, str]:
    """Choice for an animation -> the suffix. Videos need the package av."""
    video = {"MP4": ".mp4"} if importlib.util.find_spec("av") else {}
    return {"GIF": ".gif", "WebP": ".webp", **video}


def save_sweep(frames: Sequence[Image.Image], path: Path, note: str = "") -> None:
    """Write an animation that goes through the frames, rests, comes back, and repeats.

    Args:
        frames: RGB pictures of one size, at least two; of even width and height for a video.
        path: ends in one of the suffixes of `animation_formats`.
        note: what was edited, in words, for the metadata.
    """
    frames = [_without_metadata(frame) for frame in frames]
    loop = [*frames, *frames[-2:0:-1]]
    durations = [FRAME_MILLISECONDS] * len(loop)
    durations[0] = durations[len(frames) - 1] = REST_MILLISECONDS
    if path.suffix == ".mp4":
        _save_video(loop, durations, path, note)
        return
    options: dict[str, object] = {"save_all": True, "duration": durations, "loop": 0}
    if path.suffix == ".gif":
        # One palette for all frames: a palette for each makes the background flicker.
        palette = _mosaic(frames).quantize(256, dither=Image.Dither.NONE)
        loop = [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in loop]
        options |= {"comment": _sentence(note).encode(), "optimize": False}
    else:
        options |= {"quality": 85, "method": 2, "xmp": _xmp(note)}
    loop[0].save(path, append_images=loop[1:], **options)
    if path.suffix == ".gif":
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)  # in place of the last byte, which ends a GIF
            file.write(_xmp(note).join(XMP_OF_GIF) + b";")


def _save_video(loop: Sequence[Image.Image], durations: Sequence[int], path: Path, note: str) -> None:
    """H.264 at a constant rate, which every player and messenger takes; ends where it began."""
    import av  # noqa: PLC0415 - slow, and for videos only

    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        container.metadata["comment"] = _sentence(note)
        stream = container.add_stream("libx264", rate=1000 // VIDEO_MILLISECONDS, options={"crf": "18"})
        stream.width, stream.height = loop[0].size
        stream.pix_fmt = "yuv420p"
        steps = [*zip(loop, durations, strict=True)] * VIDEO_ROUNDS + [(loop[0], VIDEO_MILLISECONDS)]
        for picture, duration in steps:
            for _ in range(duration // VIDEO_MILLISECONDS):
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    content = XMP_BOX + _xmp(note)
    with path.open("ab") as file:
        file.write((8 + len(content)).to_bytes(4, "big") + b"uuid" + content)


def _without_metadata(image: Image.Image) -> Image.Image:
    """The picture without what Pillow would write of its origin, comments and profiles; `load_image` leaves none."""
    if image.info:
        image = image.copy()
        image.info = {}
    return image


def _mosaic(frames: Iterable[Image.Image]) -> Image.Image:
    small = [frame.resize((128, 128)) for frame in frames]
    page = Image.new("RGB", (128 * len(small), 128))
    for index, frame in enumerate(small):
        page.paste(frame, (128 * index, 0))
    return page


def _sentence(note: str) -> str:
    return f"Edited by AI with {PROGRAM}" + (f": {note}" if note else "")


def _xmp(note: str) -> bytes:
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<xmp:CreatorTool>{escape(PROGRAM)}</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(_sentence(note))}</rdf:li></rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def _metadata(format_name: str, note: str) -> dict[str, object]:
    """Pillow's options that write the mark."""
    if format_name != "PNG":
        return {"xmp": _xmp(note)}
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", PROGRAM)
    info.add_itxt("Description", _sentence(note))
    info.add_itxt("XML:com.adobe.xmp", _xmp(note).decode())
    return {"pnginfo": info}
