"""Pairs of frames of clips: cut by the right squares, and what stands still found again."""

import pytest
import torch

from gra_core.errors import UnreadableImageError
from gra_core.models.maps import sample_at, upscale_flow
from gra_core.training.motion import SAME_QUAD, Clips, distance, mirror, pair_of, places
from gra_core.training.streams import KINDS, counts_of_kinds, spans_of_kinds

CPU = torch.device("cpu")
INSIDE = (slice(None), slice(None), slice(200, 824), slice(200, 824))


def test_frames_with_nearly_the_same_quad_are_cut_alike(clips):
    first, second, turned = Clips(clips, CPU).clips[0]
    assert distance(first.square, second.square) == pytest.approx(0.02)
    assert distance(first.square, turned.square) > SAME_QUAD
    pair = pair_of(first, second)
    assert torch.equal(pair.source, pair.target)
    assert not pair.flow.any()
    assert pair.valid.all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_stands_still_is_found_where_it_is_in_the_other_frame(clips, mirrored):
    first, _, turned = Clips(clips, CPU).clips[0]
    pair = pair_of(first, turned, mirrored=mirrored)
    assert pair.source.shape == pair.target.shape == (1, 3, 1024, 1024)
    moved = sample_at(pair.source, upscale_flow(pair.flow, 8))[INSIDE]
    apart, found = ((x - pair.target[INSIDE]).abs().mean() for x in (pair.source[INSIDE], moved))
    assert found < 0.05 * apart
    straight = pair_of(first, turned)
    if mirrored:
        torch.testing.assert_close(pair.target, straight.target.flip(3), atol=0.01, rtol=0)


def test_a_square_shows_the_pixels_of_its_quad(clips):
    first = Clips(clips, CPU).clips[0][0]
    points = places(first.square, 4, CPU)
    torch.testing.assert_close(points[0, 0], torch.tensor([42.5, 42.5]))
    torch.testing.assert_close(points[3, 0], torch.tensor([42.5, 117.5]))
    torch.testing.assert_close(places(mirror(first.square), 4, CPU), points.flip(1))


def test_what_is_made_up_is_told_from_the_picture(clips):
    torch.manual_seed(0)
    pairs = Clips(clips, CPU, "val").sample(3)
    assert len(pairs.source) == len(pairs.flow) == 3
    assert not pairs.valid[:, :, :120].any()
    assert pairs.valid[:, :, 136:].all()


def test_a_folder_without_clips_is_an_error(tmp_path, clips):
    with pytest.raises(UnreadableImageError, match="no index"):
        Clips(tmp_path, CPU)
    with pytest.raises(UnreadableImageError, match="'test'"):
        Clips(clips, CPU, "test")


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
