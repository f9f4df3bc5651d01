"""What downloads carry: a mark of AI that other programs read, and nothing of the photo's own metadata."""

import io
import json
import shutil
import struct
import subprocess

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageChops, ImageCms, IptcImagePlugin, PngImagePlugin

from gra_core.alignment import FaceAligner
from gra_core.compositing import EditOutput, compose
from gra_core.export import FORMATS, SOURCE_TYPE, animation_formats, save_picture, save_sweep
from gra_core.images import load_image

SECRET = "SecretOfTheOriginal"
"""Part of all metadata that the sources carry."""

ALLOWED = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "xmp", "loop", "background", "timestamp"}
ALLOWED |= {"duration", "version", "comment", "extension", "Software", "Description", "XML:com.adobe.xmp"}
"""What Pillow may find in a result."""


def exif() -> Image.Exif:
    tags = Image.Exif()
    for tag in (0x010E, 0x010F, 0x0110, 0x013B, 0x8298):  # description, maker, model, artist, copyright
        tags[tag] = f"{SECRET} {tag}"
    tags.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + SECRET.encode()
    tags.get_ifd(0x8825)[0x001D] = SECRET
    return tags


def profile() -> bytes:
    """sRGB's own, under another name."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace("sRGB built-in".encode("utf-16-be"), SECRET[:13].encode("utf-16-be"))


XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><!-- {SECRET} --></x:xmpmeta>'.encode()
IPTC = b"\x1c\x02\x78" + struct.pack(">H", len(SECRET)) + SECRET.encode()
PHOTOSHOP = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC


def jpeg(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    options = {"exif": exif(), "xmp": XMP, "comment": SECRET, "icc_profile": profile()}
    photo.save(buffer, "JPEG", quality=95, **options)
    content = buffer.getvalue()
    parts = [(0xED, PHOTOSHOP), (0xE5, SECRET.encode()), (0xFE, SECRET.encode())]
    more = b"".join(b"\xff" + bytes([kind]) + struct.pack(">H", len(part) + 2) + part for kind, part in parts)
    return content[:2] + more + content[2:] + SECRET.encode()


def png(photo: Image.Image) -> bytes:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET)
    info.add_text("Compressed", SECRET, zip=True)
    info.add_itxt("International", SECRET)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add(b"prVt", SECRET.encode())
    photo.save(buffer, "PNG", pnginfo=info, exif=exif(), icc_profile=profile(), dpi=(72, 72))
    return buffer.getvalue() + SECRET.encode()


def gif(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.quantize(256).save(buffer, "GIF", comment=SECRET.encode(), save_all=True, append_images=[photo.rotate(9)])
    block = bytes([len(SECRET)]) + SECRET.encode() + b"\0"
    return buffer.getvalue()[:-1] + b"\x21\xff\x0bXMP DataXMP" + block + b"\x21\xfe" + block + b";"


def webp(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "WEBP", quality=95, exif=exif(), xmp=XMP, icc_profile=profile())
    return buffer.getvalue()


def tiff(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tags = {270: SECRET, 305: SECRET, 315: SECRET, 700: XMP, 33723: IPTC, 34377: PHOTOSHOP}
    photo.save(buffer, "TIFF", tiffinfo=tags, icc_profile=profile())
    return buffer.getvalue()


def heif(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(photo).save(buffer, quality=95, exif=exif().tobytes(), xmp=XMP, icc_profile=profile())
    return buffer.getvalue()


def avif(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "AVIF", quality=95, speed=10, exif=exif(), xmp=XMP, icc_profile=profile())
    return buffer.getvalue()


SOURCES = {maker.__name__: maker for maker in (jpeg, png, gif, webp, tiff, heif, avif)}


def secrets_in(content: bytes) -> bool:
    """Whether a file has what it should not, however it is written; Pillow looks into what is compressed."""
    return any(SECRET[:13].encode(kind) in content for kind in ("utf-8", "utf-16-be", "utf-16-le"))


def exiftool(content: bytes) -> dict[str, str]:
    """What exiftool reads; nothing where it is not installed."""
    if not shutil.which("exiftool"):
        return {}
    done = subprocess.run(["exiftool", "-json", "-a", "-"], input=content, capture_output=True, check=True)
    return json.loads(done.stdout)[0]


@pytest.fixture(scope="module")
def aligned(astronaut):
    return FaceAligner().align_photo(astronaut)


@pytest.fixture(params=SOURCES)
def source(request, astronaut) -> bytes:
    content = SOURCES[request.param](astronaut)
    assert secrets_in(content)
    return content


def check_result(content: bytes) -> None:
    assert not secrets_in(content)
    with Image.open(io.BytesIO(content)) as result:
        assert set(result.info) <= ALLOWED
        assert not result.getexif()
        assert not IptcImagePlugin.getiptcinfo(result)
    tags = exiftool(content)
    assert not [name for name, value in tags.items() if SECRET[:13] in str(value)]
    if tags:
        assert tags["DigitalSourceType"] == SOURCE_TYPE


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_carry_nothing_of_the_original(source, suffix, aligned):
    photo = load_image(source)
    maps = np.zeros((8, 8, 2), np.float32), np.ones((8, 8), np.float32)
    edit = aligned, EditOutput(ImageChops.invert(aligned.image), *maps)
    with Image.open(io.BytesIO(source)) as plain:  # a caller of the library may read photos without us
        plain.load()
        brought = plain if plain.mode == "RGB" else photo
        for picture in (photo, compose(photo, [edit]), compose(brought, [edit])):
            buffer = io.BytesIO()
            save_picture(picture, buffer, suffix, "Smile +60", visible_mark=True)
            check_result(buffer.getvalue())
            buffer = io.BytesIO()
            save_picture(brought, buffer, suffix)
            check_result(buffer.getvalue())


@pytest.mark.parametrize("suffix", animation_formats().values())
def test_animations_carry_nothing_of_the_original(suffix, astronaut, tmp_path):
    with Image.open(io.BytesIO(jpeg(astronaut))) as plain:
        frames = [plain.resize((64, 64)), load_image(jpeg(astronaut)).resize((64, 64)).rotate(9)]
        frames[0].info = dict(plain.info)
        save_sweep(frames, tmp_path / f"sweep{suffix}", "Smile")
    content = (tmp_path / f"sweep{suffix}").read_bytes()
    assert not secrets_in(content)
    if suffix != ".mp4":
        check_result(content)


@pytest.mark.parametrize("suffix", [*FORMATS, *animation_formats().values()])
def test_other_programs_read_that_a_model_changed_the_photo(suffix, face, tmp_path):
    path = tmp_path / f"result{suffix}"
    if suffix in animation_formats().values() and suffix != ".webp":
        save_sweep([face.resize((64, 64)), face.resize((64, 64)).rotate(9)], path, "Smile <&>")
    else:
        save_picture(face, path, suffix, "Smile <&>")
    if suffix == ".mp4":
        with av.open(path, options={"export_xmp": "1"}) as video:
            assert SOURCE_TYPE in video.metadata["xmp"]
    elif suffix == ".gif":
        with Image.open(path) as animation:  # the extension does not disturb who reads frames
            assert animation.n_frames == 2
            assert b"Edited by AI" in animation.info["comment"]
        content = path.read_bytes()
        assert content.index(b"XMP DataXMP") < content.index(SOURCE_TYPE.encode())
    else:
        with Image.open(path) as picture:
            about = picture.getxmp()["xmpmeta"]["RDF"]["Description"]
        assert about["DigitalSourceType"] == SOURCE_TYPE
        assert about["description"]["Alt"]["li"]["text"].endswith("Smile <&>")
    tags = exiftool(path.read_bytes())
    if tags:
        assert tags["DigitalSourceType"] == SOURCE_TYPE
