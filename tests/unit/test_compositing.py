"""Edits drawn on the photo: what stays is the photo's, bit by bit, and what moves keeps its detail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from gra_core.alignment import AlignedFace, Face, crop_at
from gra_core.compositing import BEYOND, SIDE, EditOutput, compose
from gra_core.constants import IMAGE_SIZE


def noise(width: int, height: int, strength: float = 12.0, seed: int = 0) -> Image.Image:
    """A smooth picture with grain."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(60, 190, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((smooth + generator.normal(0, strength, smooth.shape)).clip(0, 255).astype(np.uint8))


def face_at(left: int, top: int, side: int) -> Face:
    box = (left + side // 4, top + side // 4, left + 3 * side // 4, top + 3 * side // 4)
    return Face(box, np.zeros((68, 2)))


def aligned_at(photo: Image.Image, left: int, top: int, side: int, turn: float = 0.0) -> AlignedFace:
    """A square crop, turned about its middle."""
    cos, sin = np.cos(turn), np.sin(turn)
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * side / 2
    quad = corners @ np.array([[cos, sin], [-sin, cos]]) + [left + side / 2, top + side / 2]
    return AlignedFace(crop_at(photo, quad, IMAGE_SIZE), quad, face_at(left, top, side))


def output(image: Image.Image, flow: tuple[float, float] = (0, 0), keep: float = 1.0) -> EditOutput:
    """One whose middle comes from `flow` away, in shares of the side."""
    y, x = np.mgrid[:64, :64] / 63 - 0.5
    weight = np.clip(1.5 - 4 * np.hypot(x, y), 0, 1)[..., None]
    moved = (weight * np.array(flow)).astype(np.float32)
    return EditOutput(image, moved, np.full((64, 64), keep, np.float32))


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def detail(image: Image.Image, box: tuple[int, int, int, int]) -> float:
    """Mean absolute difference to the mean of each pixel's neighbours."""
    picture = torch.from_numpy(levels(image.crop(box))).permute(2, 0, 1)[None]
    return (picture - torch.nn.functional.avg_pool2d(picture, 5, 1, 2))[..., 4:-4, 4:-4].abs().mean().item()


def test_an_edit_ends_a_third_of_the_side_beyond_the_crop():
    photo = noise(1200, 1200)
    crop = aligned_at(photo, 400, 400, 400)
    everything = EditOutput(crop.image, np.full((64, 64, 2), 0.1, np.float32), np.ones((8, 8), np.float32))
    changed = np.asarray(ImageChops.difference(compose(photo, [(crop, everything)]), photo)).any(-1)
    beyond = round(400 * BEYOND / SIDE)
    assert changed[400 - beyond // 2 : 800 + beyond // 2, 400 - beyond // 2 : 800 + beyond // 2].mean() > 0.9
    changed[400 - beyond : 800 + beyond, 400 - beyond : 800 + beyond] = False
    assert not changed.any()


@settings(max_examples=5)
@given(st.integers(100, 600), st.integers(50, 350), st.integers(50, 250), st.floats(-0.6, 0.6))
def test_without_a_change_the_result_is_the_photo(side, x, y, turn):
    photo = noise(400, 300)
    crop = aligned_at(photo, x - side // 2, y - side // 2, side, turn)
    for keep in (0.0, 1.0):
        assert compose(photo, [(crop, output(crop.image, keep=keep))]).tobytes() == photo.tobytes()


def test_what_does_not_change_is_the_photos(side=1400):
    photo = noise(1600, 1500)
    crop = aligned_at(photo, 100, 50, side)
    edited = crop.image.copy()
    ImageDraw.Draw(edited).rectangle((400, 400, 600, 600), fill=(255, 0, 0))
    result = compose(photo, [(crop, output(edited, keep=0.0))])
    changed = ImageChops.difference(result, photo).getbbox()
    place = [100 + 400 * side / 1024, 50 + 400 * side / 1024, 100 + 600 * side / 1024, 50 + 600 * side / 1024]
    assert np.abs(np.array(changed) - place).max() < 20
    middle = result.crop((int(place[0]) + 30, int(place[1]) + 30, int(place[2]) - 30, int(place[3]) - 30))
    assert levels(middle).mean((0, 1)) == pytest.approx([255, 0, 0], abs=8)


def test_what_moves_takes_the_photos_own_detail_along():
    photo = noise(1600, 1600)
    crop = aligned_at(photo, 32, 32, 1536)
    result = compose(photo, [(crop, output(shifted(crop.image, 40), (40 / 1024, 0)))])
    box = (700, 700, 900, 900)
    assert detail(result, box) > 0.8 * detail(photo, box)
    before = levels(photo.crop((760, 700, 960, 900)))
    assert np.corrcoef(before.ravel(), levels(result.crop(box)).ravel())[0, 1] > 0.9


def shifted(image: Image.Image, by: int) -> Image.Image:
    """A crop whose middle shows what was to its right."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] / (IMAGE_SIZE - 1) - 0.5
    steps = np.clip(1.5 - 4 * np.hypot(x, y), 0, 1) * by
    columns = np.clip(np.arange(IMAGE_SIZE)[None] + steps.round().astype(int), 0, IMAGE_SIZE - 1)
    return Image.fromarray(np.take_along_axis(np.asarray(image), columns[..., None], 1))


@pytest.mark.parametrize("side", [700, 1024, 1536])
def test_what_is_new_has_grain_like_the_photo_and_not_its_detail(side):
    photo = noise(side, side)
    crop = aligned_at(photo, 0, 0, side)
    new = crop.image.copy()
    new.paste(Image.new("RGB", (300, 300), (128, 128, 128)), (360, 360))
    result = compose(photo, [(crop, output(new, keep=0.0))])
    box = tuple(round(share * side) for share in (0.42, 0.42, 0.58, 0.58))
    assert 0.7 < detail(result, box) / detail(photo, box) < 1.3
    both = np.corrcoef(levels(photo.crop(box)).ravel(), levels(result.crop(box)).ravel())[0, 1]
    assert abs(both) < 0.2
    again = compose(photo, [(crop, output(new, keep=0.0))])
    assert result.tobytes() == again.tobytes()


def test_what_is_partly_new_has_as_much_grain_as_the_photo():
    """Two independent halves of grain are only 71 % as strong together."""
    photo = noise(1400, 1400)
    crop = aligned_at(photo, 0, 0, 1400)
    new = crop.image.copy()
    new.paste(Image.new("RGB", (300, 300), (128, 128, 128)), (360, 360))
    box = tuple(round(share * 1400) for share in (0.42, 0.42, 0.58, 0.58))
    for keep in (0.25, 0.5):
        result = compose(photo, [(crop, output(new, keep=keep))])
        assert 0.9 < detail(result, box) / detail(photo, box) < 1.1


def test_an_edit_goes_on_beyond_the_crop_and_leaves_no_line():
    """A dark bar that crosses the crop's edge and moves there stays whole."""
    photo = Image.new("RGB", (900, 900), (200, 200, 200))
    ImageDraw.Draw(photo).rectangle((420, 0, 480, 900), fill=(40, 40, 40))
    crop = aligned_at(photo, 200, 200, 500)
    flow = np.zeros((64, 64, 2), np.float32)
    flow[..., 0] = -0.06
    moved = Image.fromarray(np.roll(np.asarray(crop.image), round(0.06 * IMAGE_SIZE), 1))
    result = levels(compose(photo, [(crop, EditOutput(moved, flow, np.ones((8, 8), np.float32)))]))[..., 0]
    bar = [np.flatnonzero(row < 120).mean() for row in result]
    assert bar[0] == pytest.approx(450, abs=1)
    assert bar[450] == pytest.approx(480, abs=2)
    assert np.abs(np.diff(bar)).max() < 2.5
    assert np.abs(np.diff(result, axis=0)).mean(1)[[199, 200, 699, 700]].max() < 3


def test_others_are_left_as_they_are():
    photo = noise(900, 500)
    crop = aligned_at(photo, 50, 50, 420)
    neighbour = face_at(330, 50, 420)
    flow = np.full((64, 64, 2), 0.05, np.float32)
    edit = EditOutput(ImageChops.invert(crop.image), flow, np.zeros((64, 64), np.float32))
    alone = compose(photo, [(crop, edit)], [crop.face])
    beside = compose(photo, [(crop, edit)], [crop.face, neighbour])
    box = neighbour.box
    assert alone.crop(box).tobytes() != photo.crop(box).tobytes()
    assert beside.crop(box).tobytes() == photo.crop(box).tobytes()
    middle = (180, 180, 320, 320)
    assert levels(beside.crop(middle)).mean() == pytest.approx(255 - levels(photo.crop(middle)).mean(), abs=12)


def test_the_order_of_faces_changes_nothing():
    photo = noise(900, 500)
    crops = [aligned_at(photo, left, 40, 420) for left in (30, 300)]
    edits = [(crop, output(ImageChops.invert(crop.image), (0.02, 0.01), 0.5)) for crop in crops]
    faces = [crop.face for crop in crops]
    one, other = compose(photo, edits, faces), compose(photo, edits[::-1], faces[::-1])
    assert one.tobytes() == other.tobytes()
    for crop in crops:
        assert ImageChops.difference(one.crop(crop.face.box), photo.crop(crop.face.box)).getbbox()


def test_a_small_face_gets_the_mean_of_finer_detail():
    """An edit with detail finer than the photo's pixels comes back as its mean, not as a moire pattern."""
    grey = Image.new("RGB", (512, 512), (128, 128, 128))
    checker = Image.fromarray((np.indices((IMAGE_SIZE, IMAGE_SIZE)).sum(axis=0) % 2 * 255).astype(np.uint8))
    crop = aligned_at(grey, 150, 150, 180)
    result = compose(grey, [(crop, output(checker.convert("RGB")))])
    assert np.abs(levels(result) - 128).max() < 8


def test_other_modes_and_a_photo_that_is_not_touched():
    photo = noise(300, 300).convert("L")
    crop = aligned_at(photo.convert("RGB"), 50, 50, 200)
    before = photo.tobytes()
    result = compose(photo, [(crop, output(ImageChops.invert(crop.image)))])
    assert (result.mode, photo.tobytes()) == ("RGB", before)
