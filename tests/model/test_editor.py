"""The editor with the shipped weights: from a photo to an edit, and what a slider move may cost."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from gra_core.alignment import FaceAligner
from gra_core.compositing import compose
from gra_core.directions.registry import preserved, turning
from gra_core.editor import Inversion, PortraitEditor
from gra_core.errors import StrengthError, UnknownEditError
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.lab.training.losses import eye_difference, eye_weights
from gra_core.models.encoder import LATENT_BOUND, to_encoder_size

FIRST_EDITS = ["smile", "age", "yaw", "glasses", "gender"]


@pytest.fixture(scope="module")
def editor() -> PortraitEditor:
    return PortraitEditor.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def aligned(astronaut):
    return FaceAligner().align_photo(astronaut)


@pytest.fixture(scope="module")
def inversion(editor, aligned) -> Inversion:
    return editor.invert(aligned.image)


@pytest.fixture(scope="module")
def reconstruction(editor, inversion) -> Image.Image:
    return editor.edit(inversion, {})


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 127.5 - 1


def mse(one: Image.Image, other: Image.Image) -> float:
    return float(np.square(pixels(one.resize((256, 256), 4)) - pixels(other.resize((256, 256), 4))).mean())


def test_reconstruction_is_the_photo(editor, inversion, reconstruction, aligned):
    assert reconstruction.size == (1024, 1024)
    assert reconstruction.mode == "RGB"
    assert np.abs(pixels(reconstruction) - pixels(aligned.image)).max() < 0.01  # one level: pixels pass whole
    low_rate = mse(editor.low_rate(inversion), aligned.image)
    assert 0.004 < low_rate < 0.15  # the code alone resembles the photo, and is no copy of it


@torch.inference_mode()
def test_a_nose_is_found_where_it_was_before_the_head_turned(editor):
    codes = editor.generator.mean_w.expand(1, 16, -1)
    turn = 0.6 * torch.tensor(editor.edits["yaw"].vector)
    still, right, left = (
        editor.streams.editing.correspondence(editor.generator, codes, codes + offset) for offset in (0, turn, -turn)
    )
    assert not still.any()
    nose = (0, 0, slice(70, 80), slice(56, 72))
    assert right[nose].mean() < -2 < 2 < left[nose].mean()


@torch.inference_mode()
@pytest.mark.parametrize("key", ["smile", "age"])
def test_eyes_keep_their_colour(editor, inversion, aligned, key):
    """Dark eyes were once drawn blue: as much as a fifth of the whole range apart."""
    photo, edited = (image_to_tensor(image) for image in (aligned.image, editor.edit(inversion, {key: 60})))
    difference = to_encoder_size(edited - photo)
    assert eye_difference(difference - difference.mean(1, keepdim=True), eye_weights(photo.device)) < 0.04


@torch.inference_mode()
def test_skin_of_a_turned_head_has_no_upsampling_artefacts(editor, inversion):
    """At 4 and 8 px, the periods of the generator's Haar transforms: no more than photos show (1 is what is around)."""

    def peak(image: Image.Image, period: int) -> float:
        cheeks = pixels(image).mean(2)[480:736, 384:640]
        window = np.hanning(256)[:, None] * np.hanning(256)
        energy = np.abs(np.fft.fft2((cheeks - cheeks.mean()) * window)) ** 2
        across = energy[0]
        wave = 256 // period
        around = np.median(across[wave - 12 : wave + 13])
        return float(across[wave - 1 : wave + 2].mean() / around)

    turned, alone = editor.edit(inversion, {"yaw": -60}), editor.low_rate(inversion, {"yaw": -60})
    assert peak(alone, 4) > 10
    assert max(peak(turned, period) for period in (4, 8)) < 2


def test_codes_stay_near_the_generators_own(editor):
    """Further off, walls and hair of turned heads have stripes: the file has to say what the code says."""
    assert editor.encoder.latent_space.bound.item() == LATENT_BOUND


def test_zero_strengths_are_no_edit(editor, inversion, reconstruction):
    zeros = editor.edit(inversion, dict.fromkeys(editor.edits, 0.0))
    assert np.array_equal(pixels(zeros), pixels(reconstruction))


def test_there_and_back_is_the_same_picture(editor, inversion):
    first = editor.edit(inversion, {"smile": 40})
    editor.edit(inversion, {"smile": -80, "age": 30})
    assert np.array_equal(pixels(first), pixels(editor.edit(inversion, {"smile": 40.0})))


def test_a_small_move_changes_little(editor, inversion, reconstruction):
    assert mse(editor.edit(inversion, {"smile": 2}), reconstruction) < 1e-4


def test_every_pair_of_sliders_protects_what_neither_releases(editor):
    """What one edit leaves to the photo no other takes away, but for the places that the other is about itself."""
    sides = [(key, strength) for key in editor.edits for strength in (60.0, -60.0)]
    alone = {side: preserved(editor.edits, dict([side])) for side in sides}
    for one, other in itertools.combinations(sides, 2):
        if one[0] != other[0]:
            both = preserved(editor.edits, dict([one, other]))
            np.testing.assert_array_equal(both, np.minimum(alone[one], alone[other]))
            assert turning(editor.edits, dict([one, other])) >= turning(editor.edits, dict([one]))


def test_each_edit_releases_what_it_is_about(editor):
    """In 32nds of the aligned face: eyes in rows 13 to 16, the mouth in rows 20 to 24, a hat in rows 2 to 6."""
    eyes, mouth, hat = (slice(13, 16), slice(10, 22)), (slice(20, 25), slice(13, 20)), (slice(2, 6), slice(10, 22))
    for strengths, place in (({"glasses": -60}, eyes), ({"eyelids": -60}, eyes), ({"gaze": 60}, eyes)):
        assert preserved(editor.edits, strengths)[place].min() < 0.1
    assert preserved(editor.edits, {"smile": -60})[mouth].min() < 0.1
    for key in ("smile", "yaw", "pitch", "warmth", "skin_red", "tint", "glasses", "eyelids", "gaze"):
        assert preserved(editor.edits, {key: 60})[hat].min() > 0.9
    both = preserved(editor.edits, {"smile": 60, "warmth": 20})
    assert both[eyes].min() > 0.9


def test_what_a_slider_releases_comes_gently(editor):
    halfway, full = (preserved(editor.edits, {"eyelids": -strength}) for strength in (10, 20))
    np.testing.assert_allclose(1 - full, 2 * (1 - halfway), atol=1e-6)
    np.testing.assert_array_equal(full, preserved(editor.edits, {"eyelids": -100}))
    assert preserved(editor.edits, {"eyelids": 0}).min() == preserved(editor.edits, {}).min() == 1


def test_what_smiles_leave_to_the_photo_ends_gently_beside_other_edits(editor, inversion):
    def eyes(gaze: float) -> np.ndarray:
        return pixels(editor.edit(inversion, {"smile": 60, "gaze": gaze}))[430:530, 330:700]

    smiling, begun, looking = (eyes(gaze) for gaze in (0, 1, 60))
    assert np.square(begun - smiling).mean() < 1e-4
    assert np.square(looking - smiling).mean() > 1e-3


@pytest.mark.parametrize("key", FIRST_EDITS)
def test_every_first_edit_changes_the_face_and_hardly_the_corners(editor, inversion, reconstruction, key):
    edited = editor.edit(inversion, {key: 60})
    change = np.abs(pixels(edited) - pixels(reconstruction)).mean(2)
    face, corners = change[350:850, 300:720].mean(), (change[:120, :120].mean(), change[:120, -120:].mean())
    assert face > 0.02
    if key == "yaw":  # wide hair fills the corner that the head turns to
        assert min(corners) < 0.2 * face
    else:
        assert max(corners) < face


def test_smile_happens_at_the_mouth(editor, inversion, reconstruction):
    change = np.abs(pixels(editor.edit(inversion, {"smile": 60})) - pixels(reconstruction)).mean(2)
    assert change[660:860, 380:640].mean() > 2 * change[150:330, 380:640].mean()  # mouth against forehead


def test_the_editing_stream_makes_up_for_what_residuals_hold_back(editor, inversion):
    def offset(strengths: dict[str, float], **options) -> torch.Tensor:
        return editor.edited_codes(inversion, strengths, **options) - inversion.codes

    plain = offset({"age": 100, "tint": -50}, alone=True)
    aged = offset({"age": 100}, alone=True)
    torch.testing.assert_close(offset({"age": 100, "tint": -50}), plain + (editor.edits["age"].gain - 1) * aged)
    torch.testing.assert_close(offset({"tint": -50}), offset({"tint": -50}, alone=True))
    low_rate = editor.low_rate(inversion, {"age": 100})
    assert np.abs(pixels(low_rate) - pixels(tensor_to_image(editor.generator(inversion.codes + aged)))).max() == 0


def test_a_slider_move_runs_the_editing_stream_only(editor, aligned, monkeypatch):
    calls = {"encoder": 0, "reconstruction": 0, "editing": 0, "generator": 0}

    def count(module: torch.nn.Module, name: str, method: str = "forward"):
        original = getattr(module, method)

        def counted(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, method, counted)

    def refuse(*args, **kwargs):
        raise AssertionError("a slider move must not look for the face again")

    count(editor.encoder, "encoder")
    count(editor.streams.reconstruction, "reconstruction", "residuals")
    count(editor.streams.editing, "editing")
    count(editor.generator, "generator", "synthesize_bands")
    inversion = editor.invert(aligned.image)
    assert calls["encoder"] == 1
    assert calls["reconstruction"] == 1
    assert calls["editing"] == 0

    before = dict(calls)
    monkeypatch.setattr(FaceAligner, "detect", refuse)
    monkeypatch.setattr(FaceAligner, "align", refuse)
    editor.edit(inversion, {"smile": 30})
    editor.edit(inversion, {"smile": 35, "yaw": -20})
    assert calls == before | {"editing": 2, "generator": before["generator"] + 2}


def test_the_aligned_residual_follows_the_edit(editor, inversion):
    """HFGI's public demo injects the same residual whatever the edit; here it moves with the face."""
    with torch.inference_mode():
        aligned, flows = [], []
        for strength in (0, 80):
            codes = editor.edited_codes(inversion, {"yaw": strength})
            edit = editor.streams.editing(editor.generator, codes, inversion.source)
            aligned.append(edit.aligned)
            flows.append(edit.flows)
    for side in (16, 32, 64, 128):
        assert not torch.allclose(aligned[0][side], aligned[1][side], atol=1e-3)
    still, turned = (flow[64].abs().amax().item() for flow in flows)
    assert turned > 0.5  # the head turns by more than half a position of 16 px
    assert turned > 2 * still


def test_an_inversion_is_immutable_and_independent(editor, inversion, aligned):
    with pytest.raises(dataclasses.FrozenInstanceError):
        inversion.codes = None
    before = editor.edit(inversion, {"smile": 20})
    editor.invert(aligned.image.filter(ImageFilter.GaussianBlur(9)).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert np.array_equal(pixels(before), pixels(editor.edit(inversion, {"smile": 20})))


def test_an_inversion_can_be_interrupted(editor, aligned, inversion):
    pauses = []
    again = editor.invert(aligned.image, lambda: pauses.append(None))
    assert len(pauses) >= 4
    assert torch.equal(again.codes, inversion.codes)


def test_other_sizes_are_accepted(editor, aligned):
    small = editor.edit(editor.invert(aligned.image.resize((300, 300))), {})
    assert small.size == (1024, 1024)
    assert mse(small, aligned.image) < 0.01


def test_edits_and_their_ranges(editor, inversion):
    assert list(editor.edits)[:5] == FIRST_EDITS
    with pytest.raises(UnknownEditError, match="smlie"):
        editor.edit(inversion, {"smlie": 10})
    with pytest.raises(StrengthError):
        editor.edit(inversion, {"smile": 101})
    with pytest.raises(StrengthError):
        editor.edit(inversion, {"smile": float("nan")})


def test_drawn_on_the_photo(editor, inversion, astronaut, aligned):
    output = editor.render(inversion, {"smile": 60})
    assert np.array_equal(pixels(output.image), pixels(editor.edit(inversion, {"smile": 60})))
    assert (output.flow.shape, output.keep.shape) == ((128, 128, 2), (256, 256))
    assert 0 <= output.keep.min() < 0.5 < output.keep.max() <= 1
    same = (np.asarray(compose(astronaut, [(aligned, output)])) == np.asarray(astronaut)).all(-1)
    mouth = aligned.face.landmarks[48:60].mean(0).round().astype(int)
    assert not same[mouth[1] - 3 : mouth[1] + 3, mouth[0] - 8 : mouth[0] + 8].any()
    assert 0.7 < same.mean() < 1
    assert np.array_equal(np.asarray(compose(astronaut, [(aligned, editor.render(inversion, {}))])), astronaut)
