"""Glasses: who wears some by the photo, and a code that agrees with it."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.feature import hog

from gra_core.directions.registry import load_directions, load_glasses_probe
from gra_core.editor import Inversion, PortraitEditor
from gra_core.images import from_bytes
from gra_core.models.glasses import EYE_STRIP, WHOLE_WAY, GlassesProbe, agreement, eye_gradients, strengths_to_agree


def test_gradients_are_those_of_scikit_image():
    pictures = np.stack(
        [np.array(Image.fromarray(data.astronaut()).resize((256, 256)).rotate(turn)) for turn in (0, 90)]
    )
    left, top, right, bottom = EYE_STRIP
    strips = pictures[:, top:bottom, left:right].astype(np.float32).mean(3)
    wanted = np.stack([hog(s, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for s in strips])
    found = eye_gradients(from_bytes(torch.tensor(pictures).permute(0, 3, 1, 2))).numpy()
    assert found.shape == wanted.shape
    # A gradient on the border of two directions may fall to either side.
    assert np.quantile(np.abs(found - wanted), 0.9) < 1e-4
    assert np.abs(found - wanted).mean() < 1e-3


def test_who_surely_wears_none_is_moved_off_glasses_and_who_surely_does_on_to_them():
    photo, both = torch.tensor([[-9.0, -5, -4, -3, -1, 0, 9], [-20.0, -9, -9, -9, -0.5, 0.5, 9]])
    assert agreement(photo, both).tolist() == [-1, -1, -0.5, 0, 0, 0.5, 1]


def test_a_frame_counts_that_the_code_shows_more_plainly_than_the_photo():
    """The probe here reads the first pixel."""
    photos, found = torch.zeros(2, 2, 3, 256, 256)
    photos[:] = -1
    found[0], found[1] = -1, 6
    assert strengths_to_agree(lambda pictures: pictures[:, 0, 0, 0], photos, found).tolist() == [0, WHOLE_WAY]


@pytest.fixture(scope="module")
def portraits(editor):
    """A generated face without glasses, and the same face with, (2, 3, 256, 256)."""
    with torch.inference_mode():
        code = editor.generator.mean_w.expand(1, 16, -1)
        glasses = torch.tensor(editor.edits["glasses"].vector)
        pictures = editor.generator(torch.cat((code, code + 1.5 * glasses)))
        return torch.nn.functional.avg_pool2d(pictures, 4).clamp(-1, 1)


def test_the_probe_that_ships_tells_glasses(portraits):
    none, some = GlassesProbe(torch.from_numpy(load_glasses_probe()))(portraits)
    assert none < -5
    assert some > 0


def test_codes_agree_with_what_photos_show(editor, portraits):
    plain = PortraitEditor(*editor.nets, editor.edits)
    photos = portraits.repeat_interleave(4, 2).repeat_interleave(4, 3)
    vector = torch.tensor(editor.edits["glasses"].vector)
    with torch.inference_mode():
        moved = editor.invert_batch(photos)[0] - plain.invert_batch(photos)[0]
    none, some = (100 * (moved * vector).sum((1, 2)) / vector.square().sum()).tolist()
    assert none == pytest.approx(-WHOLE_WAY, abs=0.01)
    assert 0 < some < WHOLE_WAY + 0.01
    for found, strength in zip(moved, (-WHOLE_WAY, some), strict=True):
        torch.testing.assert_close(found, strength / 100 * vector, atol=1e-4, rtol=0)


def test_glasses_are_put_on_as_far_as_ever(editor):
    """A code moved off glasses is not further from them by the time that the slider is where it was moved from."""
    vector = torch.tensor(editor.edits["glasses"].vector)
    turn = torch.tensor(editor.edits["yaw"].vector)
    codes = torch.zeros(1, 16, 512)

    def strength(inverted: float, wanted: float, yaw: float = 0) -> float:
        """How far in all the code is moved along the edit."""
        inverted_codes = codes + inverted / 100 * vector
        inversion = Inversion(inverted_codes, None, None, None, inverted)
        moved = editor.edited_codes(inversion, {"glasses": wanted, "yaw": yaw})[0] - yaw / 100 * turn
        return 100 * ((moved * vector).sum() / vector.square().sum()).item()

    assert strength(-15, 0) == pytest.approx(-15)
    assert strength(-15, 5) == pytest.approx(-5)
    assert strength(-15, 60) == pytest.approx(60)
    assert strength(-15, -60) == pytest.approx(-75)
    assert strength(15, -60) == pytest.approx(-60)
    assert strength(15, 60) == pytest.approx(75)
    # Turns to the right thin frames out: wearers get some more of them, as long as they are not to be taken off.
    assert strength(15, 0, -60) == pytest.approx(15, abs=0.01)
    assert strength(15, 0, 30) == pytest.approx(20, abs=0.01)
    assert strength(15, 0, 90) == pytest.approx(25, abs=0.01)
    assert strength(15, -60, 60) == pytest.approx(-60, abs=0.01)
    assert strength(-15, 0, 60) == pytest.approx(-15, abs=0.01)


def test_a_file_without_a_probe_leaves_codes_as_they_are(tmp_path):
    from gra_core.directions.registry import save_directions

    path = tmp_path / "directions.safetensors"
    save_directions(path, list(load_directions().values()))
    assert load_glasses_probe(path) is None
    probe = GlassesProbe.of(load_glasses_probe(path), "cpu")
    assert not strengths_to_agree(probe, *torch.zeros(2, 2, 3, 256, 256)).any()
