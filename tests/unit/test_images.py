"""Pictures of all kinds come out as upright 8-bit RGB, everything else as an error that says what to do."""

import io
import pickle
import re
import struct
import threading
import time
import tracemalloc
import zlib

import hostile
import numpy as np
import pillow_heif
import pytest
import torch
from measuring import memory, watched
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from serving import wait_until
from skimage import data

from gra_core import colour, decoding, images
from gra_core.errors import BusyError, UnreadableImageError
from gra_core.images import MAX_PIXELS, image_to_tensor, load_image, read_photo, tensor_to_image
from gra_core.memory import keep_freed_memory
from gra_core.sandbox import SandboxError, Shared


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((96, 64))


def encode(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def png_of_size(width: int, height: int, pixels: bytes) -> bytes:
    """A 1-bit greyscale PNG by hand: Pillow would need the whole picture in memory."""
    return hostile.png(width, height, 1, 0, pixels)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"format": "PNG"}, 0),
        ({"format": "WEBP", "lossless": True}, 0),
        ({"format": "BMP"}, 0),
        ({"format": "TIFF"}, 0),
        ({"format": "JPEG", "quality": 95}, 4),
        ({"format": "WEBP", "quality": 95}, 4),
    ],
)
def test_formats(photo, options, tolerance):
    loaded = load_image(encode(photo, **options))
    assert loaded.mode == "RGB"
    assert loaded.size == photo.size
    assert difference(loaded, photo) <= tolerance


def test_sources_are_equal(photo, tmp_path):
    content = encode(photo, format="PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    used_stream = io.BytesIO(content)
    used_stream.read()

    class Pipe(io.RawIOBase):
        """A stream that cannot seek, like a socket."""

        def __init__(self):
            self.rest = io.BytesIO(content)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.rest.readinto(buffer)

    for source in (content, path, str(path), io.BytesIO(content), used_stream, Pipe()):
        assert difference(load_image(source), photo) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation(photo, orientation, mode):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = photo
    if mode == "I;16":
        upright = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encode(stored, format="PNG", exif=exif))
    assert difference(loaded, photo if mode == "RGB" else photo.convert("L").convert("RGB")) == 0


def test_unusable_exif_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 77
    assert difference(load_image(encode(photo, format="PNG", exif=exif)), photo) == 0
    assert load_image(encode(photo, format="JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x00")).size == photo.size


def test_transparent_parts_become_white(photo):
    ramp = np.tile(np.linspace(0, 255, photo.width).round().astype(np.uint8), (photo.height, 1))
    with_alpha = photo.copy()
    with_alpha.putalpha(Image.fromarray(ramp))
    share = ramp[..., None] / 255
    expected = np.asarray(photo) * share + 255 * (1 - share)
    loaded = load_image(encode(with_alpha, format="PNG"))
    assert np.abs(np.asarray(loaded) - expected).max() <= 1

    grey = load_image(encode(with_alpha.convert("LA"), format="PNG"))
    assert grey.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    loaded = load_image(encode(palette, format="PNG", transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((3, 3)) == (200, 100, 50)


def test_the_transparency_comes_along():
    """Half of the photo is opaque, and is converted by itself."""
    photo = Image.fromarray(data.astronaut())
    alpha = np.full((512, 512), 255, np.uint8)
    alpha[300:] = np.linspace(0, 255, 512).round()
    photo.putalpha(Image.fromarray(alpha))
    wide = colour.matrix_profile(colour.Colours(None, colour.PRIMARIES[12], 13))
    for options in ({}, {"icc_profile": wide}):
        read = read_photo(encode(photo, format="PNG", **options))
        assert np.array_equal(np.asarray(read.alpha), alpha)
    read = read_photo(encode(photo, format="PNG"))
    again = np.asarray(read.transparent(read.image), float)
    assert np.array_equal(again[..., 3], alpha)
    off = np.abs(again - np.asarray(photo, float))[..., :3] * (alpha / 255)[..., None]
    assert off.max() <= 1
    photo.putalpha(255)
    assert read_photo(encode(photo, format="PNG")).alpha is None


def test_a_bmp_whose_transparency_was_left_at_0_is_opaque(photo):
    header = struct.pack("<IiiHHIIiiII4I", 108, 96, -64, 1, 32, 3, 0, 0, 0, 0, 0, *(0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    header += bytes(108 - len(header))
    for opacity in (0, 255):
        stored = photo.copy()
        stored.putalpha(opacity)
        content = header + stored.tobytes("raw", "BGRA")
        read = read_photo(b"BM" + struct.pack("<IHHI", 14 + len(content), 0, 0, 14 + len(header)) + content)
        assert read.alpha is None
        assert difference(read.image, photo) == 0


def test_grey_palette_and_cmyk(photo):
    grey = photo.convert("L")
    assert difference(load_image(encode(grey, format="PNG")), grey.convert("RGB")) == 0
    palette = photo.quantize(32)
    assert difference(load_image(encode(palette, format="PNG")), palette.convert("RGB")) == 0
    assert difference(load_image(encode(grey.convert("1"), format="PNG")), grey.convert("1").convert("RGB")) == 0
    assert difference(load_image(encode(photo.convert("CMYK"), format="JPEG", quality=95)), photo) < 5


def test_heic_opens_upright(photo):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(photo.rotate(90, expand=True)).save(buffer, quality=95, exif=exif.tobytes())
    loaded = load_image(buffer.getvalue())
    assert loaded.size == photo.size
    assert difference(loaded, photo) < 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_profiles_are_obeyed(photo, mode):
    """A profile made of sRGB's with red and green swapped: the colours it stands for are swapped, too."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = profile.replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))
    swapped = renamed.replace(b"rXYZ", b"____", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"____", b"gXYZ", 1)
    red, green, blue = photo.split()
    buffer = io.BytesIO()
    photo.convert(mode).save(buffer, "PNG", icc_profile=swapped)
    assert difference(load_image(buffer.getvalue()), Image.merge("RGB", (green, red, blue))) < 2
    for harmless in (profile, b"damaged"):
        buffer = io.BytesIO()
        photo.convert(mode).save(buffer, "PNG", icc_profile=harmless)
        assert difference(load_image(buffer.getvalue()), photo) == 0


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_is_scaled_not_clipped(file_format):
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (8, 1))
    loaded = np.asarray(load_image(encode(Image.fromarray(ramp), format=file_format)))
    assert np.array_equal(loaded, np.tile(np.arange(256, dtype=np.uint8)[:, None], (8, 1, 3)))


def test_dark_16_bit_stays_dark():
    dark = np.full((8, 8), 200 * 257, dtype=np.uint16)
    dark[:4] = 40 * 257
    for picture in (Image.fromarray(dark), Image.fromarray(dark.astype(np.int32))):
        loaded = load_image(encode(picture, format="TIFF"))
        assert loaded.getpixel((0, 0)) == (40, 40, 40)
        assert loaded.getpixel((7, 7)) == (200, 200, 200)


def test_deep_tiff():
    ramp = np.tile(np.arange(256), (8, 1))
    for deep in (ramp.astype(np.int32) * 257, ramp.astype(np.float32) / 255, ramp.astype(np.float32)):
        loaded = np.asarray(load_image(encode(Image.fromarray(deep), format="TIFF")))
        assert np.array_equal(loaded, np.repeat(ramp[..., None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_animation_gives_first_frame(file_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], format=file_format, save_all=True, append_images=frames[1:], **options)
    assert load_image(content).getpixel((8, 8)) == (255, 0, 0)


def refused(source) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_not_a_picture(tmp_path):
    path = tmp_path / "notes\nof today.jpg"
    path.write_text("Dear diary, this is no picture at all.")
    assert refused(path) == (
        "notes of today.jpg is not a picture that can be opened. Save it as a JPEG, PNG or WebP file and try again."
    )
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "HEIC" in refused(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "empty.png").touch()
    assert refused(tmp_path / "empty.png") == "empty.png is empty. Choose another photo."
    assert refused(b"") == "The file is empty. Choose another photo."
    assert refused(tmp_path / "none.png") == "none.png does not exist. Check the path."
    assert "cannot be opened" in refused(tmp_path)
    assert "cannot be opened" in refused("a\0b.png")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "HEIF", "AVIF", "TIFF"])
def test_of_half_a_file_nothing_is_shown(photo, file_format):
    content = hostile.encode(photo, file_format)
    for share in (0.05, 0.3, 0.5):
        message = refused(content[: int(len(content) * share)])
        if file_format != "HEIF":
            assert "damaged or only partly there" in message


@pytest.mark.parametrize(
    "options",
    [
        {"format": "JPEG", "quality": 95},
        {"format": "PNG"},
        {"format": "PNG", "mode": "L"},
        {"format": "PNG", "mode": "P"},
        {"format": "BMP"},
        {"format": "TIFF"},
    ],
)
def test_what_is_there_of_a_file_is_read_and_what_is_missing_is_said(options):
    options = dict(options)
    photo = Image.fromarray(data.astronaut()).convert(options.pop("mode", "RGB"))
    content = encode(photo, **options)
    whole = load_image(content)
    for share, most in ((0.999, 6), (0.88, 25)):
        read = read_photo(content[: int(len(content) * share)])
        (note,) = read.notes
        missing = re.search(r"(less than 1|\d+) % of the photo is grey", note)[1]
        assert int(missing.split()[-1]) <= most
        same = (np.asarray(read.image) == np.asarray(whole)).all(axis=(1, 2))
        assert same.sum() >= 512 * (1 - most / 100)
        assert abs(int(missing.split()[-1]) - 100 * (1 - same.mean())) < 3
    assert read_photo(content).notes == ()


def test_a_jpeg_without_its_end_marker_is_whole(photo):
    content = encode(photo, format="JPEG", quality=95)
    read = read_photo(content[:-2])
    assert read.notes == ()
    assert difference(read.image, load_image(content)) == 0


def test_the_end_of_a_progressive_jpeg_is_fine_detail():
    photo = Image.fromarray(data.astronaut())
    content = encode(photo, format="JPEG", quality=95, progressive=True)
    read = read_photo(content[: int(len(content) * 0.7)])
    assert "fine detail" in read.notes[0]
    assert difference(read.image, photo) < 6
    refused(content[: int(len(content) * 0.15)])


def test_large_texts_and_profiles_of_a_png_are_no_obstacle(photo):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 3_000_000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x>" + "y" * 3_000_000 + "</x>", zip=True)
    info.add_text("More", "z" * 40_000_000, zip=True)
    assert difference(load_image(encode(photo, format="PNG", pnginfo=info)), photo) == 0
    profile = colour.matrix_profile(colour.Colours(None, colour.SRGB, 8)) + bytes(3_000_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    loaded = load_image(encode(photo, format="PNG", icc_profile=profile))
    assert difference(loaded, photo) > 20


def test_damaged_files_raise_nothing_else(photo):
    rng = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        content = encode(photo, format=file_format)
        for _ in range(40):
            damaged = bytearray(content)
            for position in rng.integers(0, min(len(content), 400), 4):
                damaged[position] = rng.integers(256)
            try:
                assert load_image(bytes(damaged)).mode == "RGB"
            except UnreadableImageError as error:
                assert "\n" not in str(error)


def test_bomb_is_refused_at_its_header():
    side = 20_000
    rows = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    pixels = b"".join([*(rows.compress(row) for _ in range(side)), rows.flush()])
    for bomb in (png_of_size(side, side, pixels), png_of_size(22_000, 10_000, b""), png_of_size(2**31 - 1, 1, b"")):
        tracemalloc.start()
        started = time.perf_counter()
        message = refused(bomb)
        seconds = time.perf_counter() - started
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "too large" in message
        assert "megapixels first" in message
        assert seconds < 1.0
        assert peak < 10_000_000


def test_limit_is_on_pixels_not_sides():
    side = 30_000
    row = bytes([0]) + b"\xff" * (side // 8)
    loaded = load_image(png_of_size(side, 20, zlib.compress(row * 20)))
    assert loaded.size == (side, 20)
    assert loaded.getpixel((side - 1, 19)) == (255, 255, 255)
    assert side * side > MAX_PIXELS


def test_tensor_round_trip(photo):
    tensor = image_to_tensor(photo)
    assert tensor.shape == (1, 3, photo.height, photo.width)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    every_level = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert image_to_tensor(every_level).min() == -1
    assert image_to_tensor(every_level).max() == 1
    for picture in (photo, every_level.convert("RGB")):
        assert difference(tensor_to_image(image_to_tensor(picture)), picture) == 0
    red, green, blue = photo.getpixel((5, 3))
    assert torch.allclose(tensor[0, :, 3, 5], torch.tensor([red, green, blue]) / 127.5 - 1)


def test_tensor_to_image_clamps_and_rounds():
    levels = torch.tensor([-7.0, -1.0, 0.9 / 127.5 - 1, 1.0, 3.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    for dtype in (torch.float32, torch.float64):
        assert np.asarray(tensor_to_image(levels.to(dtype)))[0, :, 0].tolist() == [0, 0, 1, 255, 255]
    with pytest.raises(ValueError, match="1x3xHxW"):
        tensor_to_image(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="1x3xHxW"):
        tensor_to_image(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "PNG"),
        ("RGB", "BMP"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("RGB", "TIFF"),
        ("CMYK", "TIFF"),
        ("RGB", "JPEG"),
    ],
)
def test_pictures_of_many_strips(orientation, mode, file_format):
    photo = Image.fromarray(data.astronaut()[:, :500]).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if file_format == "BMP" else {"exif": exif}
    content = encode(photo, format=file_format, **options)
    with Image.open(io.BytesIO(content)) as plain:
        expected = ImageOps.exif_transpose(plain).convert("RGB")
    loaded = load_image(content)
    assert loaded.size == expected.size
    assert difference(loaded, expected) == 0


def test_the_picture_is_a_picture_like_others(photo):
    loaded = load_image(encode(photo, format="JPEG", comment=b"secret", dpi=(300, 300)))
    assert loaded.info == {}
    assert not loaded.getexif()
    copy = loaded.copy()
    loaded.putpixel((0, 0), (1, 2, 3))
    loaded.paste("red", (5, 5, 9, 9))
    assert loaded.getpixel((0, 0)) == (1, 2, 3)
    assert copy.getpixel((0, 0)) != (1, 2, 3)
    assert pickle.loads(pickle.dumps(copy)).tobytes() == copy.tobytes()


def jpeg_of_many_scans(photo: Image.Image, count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    content = encode(photo, format="JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_absurdly_many_scans_is_refused(photo):
    assert load_image(jpeg_of_many_scans(photo, 3)).size == photo.size
    assert "too many layers" in refused(jpeg_of_many_scans(photo, 400))
    # What follows a picture is not decoded, and may hold anything.
    assert load_image(encode(photo, format="JPEG") + b"\xff\xda\x00\x02" * 400).size == photo.size


def test_what_takes_too_long_is_refused(photo, monkeypatch):
    def give_up(*_arguments, **_options):
        raise SandboxError("time")

    monkeypatch.setattr(images.sandbox, "call", give_up)
    assert "takes too long" in refused(encode(photo, format="PNG"))


def test_a_huge_jpeg_is_opened_at_half_its_size():
    content = encode(Image.new("L", (16_000, 8_000), 77), format="JPEG")
    read = read_photo(content)
    loaded = read.image
    assert "half its size" in read.notes[0]
    assert loaded.size == (8_000, 4_000)
    assert loaded.getpixel((0, 0)) == (77, 77, 77)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_what_is_too_large_is_opened_at_half_its_size(monkeypatch, mode, orientation):
    """The limits hold in another process: they are passed by here."""
    photo = Image.fromarray(data.astronaut()[:, :500])
    image = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else None
    image = photo.convert(mode) if image is None else image
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, format="PNG", exif=exif)
    whole = read_photo(content)
    for limit in ("MAX_PIXELS", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, limit, 200_000 if limit == "MAX_PIXELS" else 700_000)
            with Shared.content(io.BytesIO(content)) as source:
                header = decoding.read_header(source, "it")
                with Shared.memory(header["pixels"] * 4) as target:
                    answer = decoding.read_pixels(source, target, "it")
                    halved = decoding.picture_over(target.map(), answer["size"]).copy()
        assert halved.size == (256, 250) if orientation == 6 else (250, 256)
        assert "(500 x 512 pixels): it was opened at half" in answer["notes"][0]
        assert answer["transparent"] == (mode == "RGBA")
        assert difference(halved, whole.image.reduce(2)) < 1


def test_a_photo_of_150_megapixels_opens(monkeypatch):
    monkeypatch.setattr(images, "PIXEL_SECONDS", 60.0)  # the machine may have other work
    side = 12_250
    row = zlib.compressobj(1)
    line = bytes([0]) + bytes([200, 120, 40]) * side
    pixels = b"".join([*(row.compress(line) for _ in range(side)), row.flush()])
    read = read_photo(hostile.png(side, side, 8, 2, pixels))
    assert read.image.size == (6_125, 6_125)
    assert read.image.getpixel((6_000, 6_000)) == (200, 120, 40)
    assert "half its size" in read.notes[0]


def test_formats_that_no_camera_writes_are_refused(photo):
    assert "not a picture" in refused(encode(photo, format="PPM"))
    assert "not a picture" in refused(encode(photo, format="PCX"))


def test_huge_pictures_wait_for_each_other_and_their_memory_goes_back(monkeypatch):
    monkeypatch.setattr(images, "PIXEL_SECONDS", 60.0)  # the machine may have other work
    keep_freed_memory()  # as the page does
    content, failures = hostile.empty_png(), []

    def open_it():
        try:
            assert load_image(content).getpixel((0, 0)) == (255, 255, 255)
        except Exception as error:
            failures.append(error)

    load_image(png_of_size(8, 8, zlib.compress(bytes(16))))
    with watched(stalls=False) as watch:
        threads = [threading.Thread(target=open_it) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert watch.growth < 1_800_000_000
    wait_until(lambda: memory() - watch.before < 60_000_000)  # workers that were too many are about to end


def test_pictures_in_use_count_until_they_are_gone_or_old(photo, monkeypatch):
    content = encode(photo, format="PNG")
    need = photo.width * photo.height * 4
    monkeypatch.setattr(images, "_budget", images._Budget(2 * need + len(content)))
    monkeypatch.setattr(images, "PATIENCE", 0.3)
    first, second = load_image(content), load_image(content)
    with pytest.raises(BusyError):
        load_image(content)
    del first
    third = load_image(content)
    assert second.tobytes() == third.tobytes()
    del second, third
    monkeypatch.setattr(images, "HELD_SECONDS", 0.0)
    pictures = [load_image(content) for _ in range(4)]
    assert len({picture.tobytes() for picture in pictures}) == 1
