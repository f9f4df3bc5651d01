"""Faces are found, cropped as FFHQ crops them, and put back without a trace outside the crop."""

import importlib.util
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from gra_core import alignment
from gra_core.alignment import AlignedFace, Face, FaceAligner, ffhq_quad
from gra_core.constants import ASSETS_DIR, IMAGE_SIZE
from gra_core.errors import CheckpointError, FaceTooSmallError, NoFaceError
from gra_core.images import Photo, load_image


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    return FaceAligner()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def aligned(aligner, photo) -> AlignedFace:
    return aligner.align_photo(photo)


def side_of(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def share_inside(quad: np.ndarray, size: tuple[int, int], margin: float) -> np.ndarray:
    """Bool (height, width): pixels whose centre lies deeper in the quad than `margin` (a share of its side).

    Written with the half-plane of each edge, unlike the code that it tests.
    """
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    inside = np.ones(x.shape, dtype=bool)
    for here, there in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        ex, ey = (there - here) / np.hypot(*(there - here))
        inside &= (x - here[0]) * ey - (y - here[1]) * ex > margin * side_of(quad)
    return inside


def psnr(one: Image.Image, other: Image.Image, where: np.ndarray) -> float:
    error = (np.asarray(one, dtype=float) - np.asarray(other, dtype=float))[where]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-9)))


def test_one_face_is_found(aligner, photo):
    (face,) = aligner.detect(photo)
    left, top, right, bottom = face.box
    assert 150 < left < 210
    assert 250 < right < 300
    assert 50 < top < 110
    assert 150 < bottom < 200
    assert face.landmarks.shape == (68, 2)
    eyes = face.landmarks[36:42].mean(axis=0), face.landmarks[42:48].mean(axis=0)
    assert np.allclose(eyes, [(203, 101.5), (246.5, 103.5)], atol=2)  # pupils, read off the photo


def test_mirrored_photo_gives_mirrored_landmarks(aligner, photo, aligned):
    (face,) = aligner.detect(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    centre = aligned.face.landmarks[36:48].mean(axis=0)
    mirrored = face.landmarks[36:48].mean(axis=0)
    assert photo.width - mirrored[0] == pytest.approx(centre[0], abs=0.8)
    assert mirrored[1] == pytest.approx(centre[1], abs=0.8)


def test_crop_is_the_ffhq_one(aligner, aligned):
    assert aligned.image.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert aligned.image.mode == "RGB"
    (face,) = aligner.detect(aligned.image)
    left_eye, right_eye = face.landmarks[36:42].mean(axis=0), face.landmarks[42:48].mean(axis=0)
    mouth = (face.landmarks[48] + face.landmarks[54]) / 2
    # Where the mean FFHQ face has its eyes and mouth: level eyes at 0.47 of the height, a quarter of the side apart.
    assert left_eye == pytest.approx(np.array([0.375, 0.47]) * IMAGE_SIZE, abs=0.03 * IMAGE_SIZE)
    assert right_eye == pytest.approx(np.array([0.625, 0.47]) * IMAGE_SIZE, abs=0.03 * IMAGE_SIZE)
    assert abs(left_eye[1] - right_eye[1]) < 0.01 * IMAGE_SIZE
    assert mouth == pytest.approx(np.array([0.5, 0.72]) * IMAGE_SIZE, abs=0.03 * IMAGE_SIZE)


def test_aligning_an_aligned_crop_gives_the_whole_picture(aligner, aligned):
    for size in (1024, 512):
        again = aligner.align_photo(aligned.image.resize((size, size)))
        whole = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * size
        assert np.abs(again.quad - whole).max() < 0.02 * size


def test_quad_formula():
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48] = (40, 50), (60, 50)
    landmarks[48], landmarks[54] = (42, 70), (58, 70)
    # Eyes 20 apart: half side 2 x 20 = 40; centre a tenth of the 20 px from the eyes (50, 50) to the mouth.
    assert np.allclose(ffhq_quad(landmarks), [(10, 12), (10, 92), (90, 92), (90, 12)])
    landmarks[[48, 54], 1] = 80  # a long face: half side 1.8 x 30 = 54, centre 3 px below the eyes
    assert np.allclose(ffhq_quad(landmarks), [(-4, -1), (-4, 107), (104, 107), (104, -1)])

    angle = np.radians(30)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    assert np.allclose(ffhq_quad(landmarks @ turn), ffhq_quad(landmarks) @ turn)
    assert np.allclose(ffhq_quad(landmarks * 3 + 7), ffhq_quad(landmarks) * 3 + 7)


@given(st.integers(0, 2**32 - 1), st.floats(0, 2 * np.pi), st.floats(0.1, 20), st.floats(-3000, 3000))
def test_the_crop_moves_with_the_face(seed, angle, scale, shift):
    landmarks = np.random.default_rng(seed).uniform(0, 100, (68, 2))
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = ffhq_quad(landmarks @ turn + shift)
    assert np.allclose(moved, ffhq_quad(landmarks) @ turn + shift, atol=1e-6 * scale * 100 + 1e-6)


@pytest.mark.parametrize("factor", [300 / 512, 2.5, 6])
def test_photos_of_other_sizes_align_alike(aligner, photo, aligned, factor):
    other = photo.resize([round(side * factor) for side in photo.size], Image.Resampling.BICUBIC)
    crop = aligner.align_photo(other)
    assert np.abs(crop.quad / factor - aligned.quad).max() < 0.015 * side_of(aligned.quad)
    assert psnr(crop.image, aligned.image, np.s_[:]) > 22


def test_photo_larger_than_the_crop_is_not_aliased(photo, aligned):
    """A crop of more than twice the size shrinks by an antialiasing filter: a fine checkerboard turns grey."""
    checker = (np.indices((2500, 2500)).sum(axis=0) % 2 * 255).astype(np.uint8)
    quad = np.array([[40, 40], [40, 2460], [2460, 2460], [2460, 40.0]])
    face = Face((0, 0, 1, 1), landmarks_for(quad))
    crop = FaceAligner().align(Image.fromarray(checker), face)
    assert np.allclose(crop.quad, quad)
    assert np.abs(np.asarray(crop.image, dtype=float) - 127.5).max() < 6


def landmarks_for(quad: np.ndarray) -> np.ndarray:
    """Landmarks of a face whose FFHQ crop is the given square: eyes a quarter of its side apart and level in it."""
    landmarks = np.zeros((68, 2))
    across, down = (quad[3] - quad[0]) / 4, (quad[1] - quad[0]) / 4
    eyes = quad.mean(axis=0) - 0.1 * down
    landmarks[36:42], landmarks[42:48] = eyes - across / 2, eyes + across / 2
    landmarks[48], landmarks[54] = eyes + down - across / 3, eyes + down + across / 3
    return landmarks


def test_crop_geometry_is_exact():
    """Pixels land where the quad says, to a tenth of a pixel: a dot keeps its place through crop and paste."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:600, :800]
    for side in (200.0, 560.0):
        angle = rng.uniform(-0.5, 0.5)
        centre = np.array([400, 300]) + rng.uniform(-20, 20, 2)
        across = np.array([np.cos(angle), np.sin(angle)]) * side / 2
        down = np.array([-across[1], across[0]])
        quad = np.stack(
            [centre - across - down, centre - across + down, centre + across + down, centre + across - down]
        )
        dot = np.array([0.3, 0.6])  # share of the crop
        place = quad[0] + dot[0] * (quad[3] - quad[0]) + dot[1] * (quad[1] - quad[0])
        bump = 250 * np.exp(-((x + 0.5 - place[0]) ** 2 + (y + 0.5 - place[1]) ** 2) / (2 * (side / 40) ** 2))
        crop = FaceAligner().align(
            Image.fromarray(bump.round().astype(np.uint8)), Face((0, 0, 1, 1), landmarks_for(quad))
        )
        assert np.allclose(crop.quad, quad)
        assert centroid(crop.image) == pytest.approx(dot * IMAGE_SIZE, abs=0.1 * IMAGE_SIZE / side + 0.1)


def centroid(image: Image.Image) -> np.ndarray:
    weight = np.asarray(image.convert("L"), dtype=float)
    weight[weight < 20] = 0
    y, x = np.indices(weight.shape) + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotated_photos_give_the_same_crop(aligner, photo, aligned, orientation):
    stored = photo
    if orientation > 1:
        turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
        stored = photo.transpose(turn[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.save(stream, format="PNG", exif=exif)
    assert aligner.align_photo(load_image(stream)).image.tobytes() == aligned.image.tobytes()


def test_several_faces_largest_first(aligner, photo):
    group = Image.new("RGB", (1400, 800), (120, 130, 140))
    group.paste(photo, (20, 150))
    group.paste(photo.resize((768, 768)), (600, 20))
    large, small = aligner.detect(group)
    assert large.box[0] > 600 > small.box[0]
    assert large.box[2] - large.box[0] > 1.3 * (small.box[2] - small.box[0])
    assert aligner.align_photo(group, 1).quad[:, 0].max() < 600
    with pytest.raises(NoFaceError, match=r"number 2\. 2 faces were found: choose a number from 0"):
        aligner.align_photo(group, 2)
    with pytest.raises(NoFaceError, match="number -1"):
        aligner.align_photo(group, -1)


def test_index_beyond_the_only_face(aligner, photo):
    with pytest.raises(NoFaceError, match="Only one face was found: it is number 0"):
        aligner.align_photo(photo, 1)


def test_small_face_in_a_large_photo_is_found(aligner, photo):
    wide = Image.new("RGB", (3000, 2000), (120, 130, 140))
    wide.paste(photo, (1800, 1000))
    (face,) = aligner.detect(wide)
    assert 1950 < face.box[0] < 2010


def test_a_small_face_in_a_panorama_is_found(aligner, photo):
    """The face is of 120 px, 1 % of the photo's width."""
    wide = Image.new("RGB", (12_000, 2_600), (120, 130, 140))
    wide.paste(photo, (8_300, 1_700))
    (face,) = aligner.detect(wide)
    assert 8_450 < face.box[0] < 8_510
    aligner.align(wide, face)


@pytest.mark.parametrize(("quarters", "said"), [(1, "counterclockwise by a quarter"), (2, "by half"), (3, "clockwise")])
def test_a_face_that_lies_or_stands_on_its_head_is_turned_upright(aligner, photo, aligned, quarters, said):
    alpha = Image.linear_gradient("L").resize(photo.size)
    lying = Photo(photo, alpha, ("As before.",)).turned(quarters)
    upright, (face,) = aligner.find(lying)
    before, note = upright.notes
    assert before == "As before."
    assert said in note
    assert upright.image.tobytes() == photo.tobytes()
    assert upright.alpha.tobytes() == alpha.tobytes()
    assert aligner.align(upright.image, face).image.tobytes() == aligned.image.tobytes()


def test_an_upright_face_stays_as_it_is(aligner, photo):
    given = Photo(photo)
    found, faces = aligner.find(given)
    assert found is given
    assert len(faces) == 1


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_of_several_turns_the_clearest_counts(aligner, quarters):
    """An example on whose side the detector sees something, too."""
    example = load_image(ASSETS_DIR / "examples" / "generated-1.webp")
    photo = Photo(example).turned(quarters) if quarters else Photo(example)
    assert aligner.find(photo)[0].image.tobytes() == example.tobytes()


@pytest.mark.parametrize("size", [(400, 300), (1, 1), (3, 900)])
def test_no_face(aligner, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    with pytest.raises(NoFaceError, match=r"No face found\. Faces in profile .* larger face that shows both eyes"):
        aligner.detect(Image.fromarray(noise))
    with pytest.raises(NoFaceError):
        aligner.find(Photo(Image.fromarray(noise)))


def test_tiny_face(aligner, photo):
    small = photo.resize((160, 160), Image.Resampling.LANCZOS)
    (face,) = aligner.detect(small)
    with pytest.raises(FaceTooSmallError, match="too small to edit") as caught:
        aligner.align(small, face)
    assert "\n" not in str(caught.value)


def test_degenerate_landmarks_are_too_small(aligner, photo):
    with pytest.raises(FaceTooSmallError):
        aligner.align(photo, Face((0, 0, 1, 1), np.zeros((68, 2))))


def test_missing_and_damaged_predictor(aligner, photo, monkeypatch, tmp_path):
    alignment._predictor.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None)
            with pytest.raises(CheckpointError, match="pip install face_recognition_models"):
                aligner.detect(photo)
        with monkeypatch.context() as patch:
            path = tmp_path / alignment._PREDICTOR_FILE
            path.parent.mkdir()
            path.write_bytes(b"not a predictor")
            spec = importlib.util.find_spec("json")
            spec.submodule_search_locations = [str(tmp_path)]
            patch.setattr(importlib.util, "find_spec", lambda name: spec)
            with pytest.raises(CheckpointError, match="damaged"):
                aligner.detect(photo)
    finally:
        alignment._predictor.cache_clear()
    assert len(aligner.detect(photo)) == 1


def test_crop_beyond_the_photo_is_filled(aligner, photo, aligned):
    """The face at the photo's corner: real pixels as they are, the rest a smooth continuation."""
    left, top = 155, 55
    corner = photo.crop((left, top, 512, 512))
    crop = aligner.align_photo(corner)
    assert crop.quad.min() < -10
    assert np.abs(crop.quad - (aligned.quad - np.array([left, top]))).max() < 0.04 * side_of(aligned.quad)
    assert np.asarray(crop.image).std(axis=(0, 1)).min() > 20
    edge = np.asarray(crop.image, dtype=float)[:8]
    assert np.abs(np.diff(edge, axis=1)).max() < 8  # blurred out there
    assert edge.max() > 0
