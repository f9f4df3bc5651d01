"""Whatever a file says of its colours, the picture comes out in sRGB."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from skimage import data

from gra_core import colour
from gra_core.colour import ADOBE_GAMMA, ADOBE_RGB, HLG_PEAK, PRIMARIES, REFERENCE_WHITE, SRGB, Colours, matrix_profile
from gra_core.images import load_image

DISPLAY_P3, BT2020 = 12, 9
SRGB_CURVE, LINEAR, PQ, HLG = 13, 8, 16, 18


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.astronaut()[:256, 64:320])


def light_of(photo: Image.Image) -> np.ndarray:
    return colour.light(np.asarray(photo) / 255, SRGB_CURVE)


def curve_of(transfer: int | float, light: np.ndarray) -> np.ndarray:
    """Levels, 0 to 1, of light in which 1 is white: the functions of the standards, from light to signal."""
    if isinstance(transfer, float):
        return light ** (1 / transfer)
    if transfer == LINEAR:
        return light
    if transfer == PQ:
        power = (light * REFERENCE_WHITE / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    if transfer == HLG:
        shown = light * REFERENCE_WHITE / HLG_PEAK
        luminance = shown @ np.array([0.2627, 0.6780, 0.0593])
        scene = shown * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
        high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def stored(photo: Image.Image, primaries: tuple, transfer: int | float) -> Image.Image:
    """The photo's levels in another colour space."""
    matrix = np.linalg.inv(colour.rgb_to_xyz(primaries)) @ colour.rgb_to_xyz(SRGB)
    levels = curve_of(transfer, (light_of(photo) @ matrix.T).clip(0, None))
    return Image.fromarray(np.rint(255 * levels).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(image: Image.Image, primaries: int, transfer: int) -> bytes:
    buffer = io.BytesIO()
    codes = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 1}
    pillow_heif.from_pillow(image).save(buffer, quality=95, chroma=444, full_range_flag=1, **codes)
    return buffer.getvalue()


def avif(image: Image.Image, primaries: int, transfer: int) -> bytes:
    content = encode(image, "AVIF", quality=97, subsampling="4:4:4", speed=9)
    place = content.index(b"colrnclx") + 8
    return content[:place] + struct.pack(">HH", primaries, transfer) + content[place + 4 :]


def png(image: Image.Image, **chunks: bytes) -> bytes:
    content = encode(image, "PNG")
    parts = [(kind.encode() + body) for kind, body in chunks.items()]
    more = b"".join(struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return content[:33] + more + content[33:]


def cicp(image: Image.Image, primaries: int, transfer: int) -> bytes:
    return png(image, cICP=bytes([primaries, transfer, 0, 1]))


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize(
    ("primaries", "transfer"), [(DISPLAY_P3, SRGB_CURVE), (BT2020, PQ), (DISPLAY_P3, PQ), (BT2020, HLG), (1, LINEAR)]
)
@pytest.mark.parametrize(("write", "tolerance"), [(heic, 2.5), (avif, 3.5), (cicp, 1.0)])
def test_code_points_are_obeyed(photo, write, tolerance, primaries, transfer):
    content = write(stored(photo, PRIMARIES[primaries], transfer), primaries, transfer)
    assert difference(load_image(content), photo) < tolerance


@pytest.mark.parametrize("write", [heic, avif, cicp])
@pytest.mark.parametrize("transfer", [1, 2, 6, SRGB_CURVE])
def test_usual_code_points_change_nothing(photo, write, transfer):
    assert difference(load_image(write(photo, 1, transfer)), photo) < 2


def test_bright_hdr_keeps_middle_tones_and_highlights(photo):
    """Light up to 800 cd/m2: what is dark stays, what is bright is neither cut off nor turned about."""
    ramp = np.linspace(0, 4, 256)
    grey = np.rint(255 * curve_of(PQ, np.tile(ramp[None, :, None], (8, 1, 3)))).astype(np.uint8)
    loaded = np.asarray(load_image(cicp(Image.fromarray(grey), BT2020, PQ)), dtype=int)[4]
    assert np.abs(loaded[:, 0] - loaded[:, 2]).max() <= 1
    assert (np.diff(loaded[:, 1]) >= 0).all()
    wanted = 255 * curve_of(SRGB_CURVE, ramp)
    assert np.abs(loaded[:16, 1] - wanted[:16]).max() < 4
    assert loaded[-1, 1] == pytest.approx(255, abs=2)
    assert 220 < loaded[64, 1] < 245


def test_gamma_and_chromaticities_of_png_are_obeyed(photo):
    gamma = {"gAMA": struct.pack(">I", 100_000)}
    assert difference(load_image(png(stored(photo, SRGB, LINEAR), **gamma)), photo) < 1
    assert difference(load_image(png(stored(photo, SRGB, 1.8), gAMA=struct.pack(">I", 55_556))), photo) < 1
    numbers = [round(100_000 * value) for pair in PRIMARIES[DISPLAY_P3] for value in pair]
    usual = {"gAMA": struct.pack(">I", 45_455)}
    wide = stored(photo, PRIMARIES[DISPLAY_P3], SRGB_CURVE)
    assert difference(load_image(png(wide, **usual, cHRM=struct.pack(">8I", *numbers))), photo) < 1
    assert difference(load_image(png(photo, **usual)), photo) == 0
    assert difference(load_image(png(photo, sRGB=b"\0", gAMA=struct.pack(">I", 100_000))), photo) == 0
    for nonsense in (bytes(32), struct.pack(">8I", *[2**31 - 1] * 8)):
        assert difference(load_image(png(photo, cHRM=nonsense)), photo) == 0


def test_of_two_statements_the_stronger_counts(photo):
    linear = matrix_profile(Colours(None, SRGB, LINEAR))
    wide = stored(photo, PRIMARIES[DISPLAY_P3], SRGB_CURVE)
    content = encode(wide, "PNG", icc_profile=linear)
    chunk = b"cICP" + bytes([DISPLAY_P3, SRGB_CURVE, 0, 1])
    both = content[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    assert difference(load_image(both), photo) < 1


def named(profile: bytes, name: str) -> bytes:
    """A profile under another name of one letter or more, which takes the place of its first bytes of padding."""
    place = profile.index(b"desc\0\0\0\0") + 8
    content = struct.pack(">I", len(name) + 1) + name.encode() + b"\0"
    return profile[:place] + content + profile[place + len(content) :]


def test_a_profile_counts_by_what_it_does_not_by_its_name(photo):
    linear = named(matrix_profile(Colours(None, SRGB, LINEAR)), "sRGB linear")
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(linear)))
    assert difference(load_image(encode(stored(photo, SRGB, LINEAR), "PNG", icc_profile=linear)), photo) < 1
    usual = matrix_profile(Colours(None, SRGB, SRGB_CURVE))
    assert difference(load_image(encode(photo, "PNG", icc_profile=usual)), photo) == 0


def grey_profile(gamma: float) -> bytes:
    """A grey profile (ICC.1:2001-04, 6.3.1.1) of a power function."""
    head = bytearray(matrix_profile(Colours())[:128])
    parts = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)}
    parts |= {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"}
    parts |= {b"cprt": b"text\0\0\0\0-\0\0\0", b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"-\0" + bytes(80)}
    table, content, place = b"", b"", 132 + 12 * len(parts)
    for name, part in parts.items():
        table += name + struct.pack(">II", place + len(content), len(part))
        content += part
    head[:4], head[16:20] = struct.pack(">I", place + len(content)), b"GRAY"
    return bytes(head) + struct.pack(">I", len(parts)) + table + content


@pytest.mark.parametrize("kind", ["L", "LA", "I;16"])
def test_grey_profiles_are_obeyed(photo, kind):
    grey = photo.convert("L")
    light = colour.light(np.asarray(grey) / 255, SRGB_CURVE)
    levels = light ** (1 / 1.5)
    if kind == "I;16":
        image = Image.fromarray(np.rint(65535 * levels).astype(np.uint16))
    else:
        image = Image.fromarray(np.rint(255 * levels).astype(np.uint8))
    if kind == "LA":
        image.putalpha(Image.new("L", image.size, 255))
    loaded = load_image(encode(image, "PNG", icc_profile=grey_profile(1.5)))
    assert difference(loaded, grey.convert("RGB")) < 1.5


def test_a_profile_of_another_kind_of_picture_is_passed_over(photo):
    assert difference(load_image(encode(photo, "PNG", icc_profile=grey_profile(1.0))), photo) == 0
    grey = photo.convert("L")
    wide = matrix_profile(Colours(None, SRGB, 1.0))
    assert difference(load_image(encode(grey, "PNG", icc_profile=wide)), grey.convert("RGB")) > 20


def test_the_mark_of_adobe_rgb_is_obeyed(photo):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    image = stored(photo, ADOBE_RGB, ADOBE_GAMMA)
    loaded = load_image(encode(image, "JPEG", quality=97, subsampling=0, exif=exif))
    assert difference(loaded, photo) < 2 < difference(image, photo)


def test_lab_is_shown():
    image = ImageCms.applyTransform(
        Image.new("RGB", (8, 8), (200, 60, 40)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert np.abs(np.subtract(load_image(encode(image, "TIFF")).getpixel((4, 4)), (200, 60, 40))).max() < 4
