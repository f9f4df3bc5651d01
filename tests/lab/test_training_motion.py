"""Pairs of frames of clips: cut by the right squares, and what stands still found again."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gra_core.errors import UnreadableImageError
from gra_core.lab.training import prepare
from gra_core.lab.training.motion import SAME_QUAD, AlignedFrames, Clips, MotionPairs, distance, mirror, pair_of, places
from gra_core.lab.training.prepared import PreparedSet
from gra_core.lab.training.streams import KINDS, StreamTraining, counts_of_kinds, spans_of_kinds

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(clips: Path, tmp_path_factory) -> PreparedSet:
    out = tmp_path_factory.mktemp("prepared")
    prepare.main(["--clips", str(clips), "--out", str(out)])
    return PreparedSet(out)


def test_frames_with_nearly_the_same_quad_are_cut_alike(data):
    first, second, turned = Clips(data, CPU).clips[0]
    assert distance(first.square, second.square) == pytest.approx(0.02)
    assert distance(first.square, turned.square) > SAME_QUAD
    pair = pair_of(first, second)
    assert torch.equal(pair.source, pair.target)
    assert not pair.apart.any()
    assert pair.valid.all()
    assert pair_of(first, turned).apart.all()


def test_a_square_shows_the_pixels_of_its_quad(data):
    first = Clips(data, CPU).clips[0][0]
    points = places(first.square, 4, CPU)
    torch.testing.assert_close(points[0, 0], torch.tensor([42.5, 42.5]))
    torch.testing.assert_close(points[3, 0], torch.tensor([42.5, 117.5]))
    torch.testing.assert_close(places(mirror(first.square), 4, CPU), points.flip(1))


def test_what_is_made_up_is_told_from_the_picture(data):
    torch.manual_seed(0)
    pairs = Clips(data, CPU, "val").sample(3)
    assert pairs.source.shape == pairs.target.shape == (3, 3, 1024, 1024)
    assert not pairs.valid[:, :, :120].any()
    assert pairs.valid[:, :, 136:].all()


def test_a_mirrored_pair_shows_what_a_mirror_does(data):
    first, _, turned = Clips(data, CPU).clips[0]
    straight, mirrored = (pair_of(first, turned, mirrored=x) for x in (False, True))
    torch.testing.assert_close(mirrored.target, straight.target.flip(3), atol=0.01, rtol=0)
    torch.testing.assert_close(mirrored.source, straight.source.flip(3), atol=0.01, rtol=0)


def test_frames_are_cut_as_photos_are(data):
    frames = AlignedFrames(data, 64, CPU)
    assert frames.pictures.shape == (3, 3, 64, 64)
    assert frames.pictures.dtype == torch.uint8
    assert torch.equal(frames.counts, torch.tensor([3]))


def test_pairs_are_two_frames_of_a_clip_mirrored_alike():
    """Of clips with three and two frames; each frame is as light as its number says, and lighter on the right."""
    numbers, ramp = 40 * torch.arange(5, dtype=torch.uint8), torch.arange(8, dtype=torch.uint8)
    pictures = (numbers[:, None] + ramp)[:, None, None].expand(5, 3, 8, 8)
    frames = SimpleNamespace(pictures=pictures, counts=torch.tensor([3, 2]), starts=torch.tensor([0, 3]))
    torch.manual_seed(0)
    found, same = AlignedFrames.sample_pairs(frames, 60, pictures[:, :1])
    assert torch.equal(found[:, :1], same)
    levels = ((found[:, 0, 0] + 1) * 127.5).round().long()
    first, second = (levels.amin(1) // 40).chunk(2)
    assert (first != second).all()
    assert torch.equal(first > 2, second > 2)
    assert set(first.tolist()) == set(second.tolist()) == set(range(5))
    assert 20 < (first > 2).sum() < 40
    turned, also = (levels[:, 0] > levels[:, -1]).chunk(2)
    assert torch.equal(turned, also)
    assert 20 < turned.sum() < 40


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_what_is_behind_stays_where_the_source_has_it(apart):
    """A white person steps from left to right; walls are grey, light in the target."""
    source, target = torch.full((1, 3, 1024, 1024), -0.4), torch.full((1, 3, 1024, 1024), 0.4)
    source[..., 200:400], target[..., 500:700] = 1, 1
    training = SimpleNamespace(person=lambda pictures: (pictures[:, :1] > 0.9).float())
    pairs = MotionPairs(source, target, torch.ones(1, 1, 256, 256), torch.full((1, 1, 1, 1), apart))
    found, valid, behind = StreamTraining.before_what_was_behind(training, pairs)
    assert torch.equal(behind[0, 0, 0, ::25], torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]))
    assert (found[..., 510:690] == 1).all()
    if apart:
        assert (found[..., :160] == -0.4).all()  # the source's wall
        assert not valid[..., 52:98].any()  # what the person has uncovered
        assert valid[..., :40].all() and valid[..., 130:170].all()
    else:
        assert torch.equal(found, target)
        assert valid.all()


def test_data_without_clips_of_a_split_is_an_error(data):
    with pytest.raises(UnreadableImageError, match="no clip of the split 'test'"):
        Clips(data, CPU, "test")


@pytest.mark.parametrize(("variants", "motion"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_batch_has_all_kinds_of_pairs_that_are_asked_for(variants, motion):
    counts = counts_of_kinds(16, variants=variants, motion=motion)
    assert sum(counts.values()) == 16
    assert bool(counts["returned"]) == variants
    assert bool(counts["motion"]) == motion
    assert min(counts[kind] for kind in ("exact", "misaligned", "free")) > 0
    spans = spans_of_kinds(counts)
    places_taken = [i for kind in KINDS for i in range(spans[kind].start, spans[kind].stop)]
    assert places_taken == list(range(16))
