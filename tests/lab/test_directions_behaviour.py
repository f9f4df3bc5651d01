"""What is measured of an edit's behaviour: where it releases the photo, and whether it turns the head."""

import argparse

import pytest
import torch

from gra_core.directions.registry import RELEASE_SIDE, load_directions, preserved
from gra_core.errors import GRAError
from gra_core.lab.directions.behaviour import add_arguments, releases, run

EYES, HAIR = (slice(12, 16), slice(10, 20)), (slice(0, 6), slice(0, 32))


def changes(seed: int, faces: int = 24) -> torch.Tensor:
    """Of an edit that does nothing in particular: detail changes a little everywhere, at random."""
    noise = torch.rand(faces, 2, RELEASE_SIDE, RELEASE_SIDE, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([0.05, 0.2])[:, None, None] * (0.75 + 0.5 * noise)


def test_an_edit_that_only_moves_releases_nothing():
    """Hair is drawn anew in every pose: it loses detail both ways, or by chance on one face."""
    plus, minus = changes(0), changes(1)
    for both in (plus, minus):
        both[:, 0, *HAIR] += 0.2
    plus[3, 0, *EYES] += 1.0
    assert releases(plus, minus).max() == 0


def test_what_an_edit_takes_away_is_released_and_what_it_puts_on_is_not():
    plus, minus = changes(0), changes(1)
    minus[:, 0, *EYES] += 0.1  # glasses come off
    found = releases(plus, minus)
    assert found.shape == (2, RELEASE_SIDE, RELEASE_SIDE)
    assert found[0].max() == 0
    assert found[1][EYES].min() == 1
    assert found[1][18:].max() == found[1][:9].max() == 0


def test_what_an_edit_is_about_is_released():
    plus, minus = changes(0), changes(1)
    plus[:, 1, *EYES] += 2.0  # another gaze: as much detail as before
    found = releases(plus, minus)
    assert found[0][EYES].min() == 1
    assert found[1].max() == 0


def test_the_committed_edits_were_calibrated():
    edits = load_directions()
    assert {key for key, edit in edits.items() if edit.turns} == {"yaw", "pitch"}
    assert all(edit.releases.shape == (2, RELEASE_SIDE, RELEASE_SIDE) for edit in edits.values())
    assert preserved(edits, {"glasses": -60})[13:16, 10:22].min() < 0.1


@pytest.mark.parametrize("pair", ["smile", "smile=", "smile=much", "smlie=1"])
def test_options_that_cannot_be(pair, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(GRAError, match="KEY=NUMBER"):
        run(parser.parse_args(["--out", str(tmp_path / "out.safetensors"), "--gain", pair]))
    assert not list(tmp_path.iterdir())
