"""What training pairs are made with: other backgrounds, and the adversary."""

from types import SimpleNamespace

import pytest
import torch

from gra_core.lab.training.adversary import Adversary, adversary_loss, realism_loss
from gra_core.lab.training.backgrounds import Backgrounds, set_before
from gra_core.lab.training.streams import StreamTraining, kept, resized_flow

CHANNELS = (16, 16, 32, 32)
RED, BLUE = (torch.tensor(colour)[:, None, None] for colour in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0)))


def person(size: int) -> torch.Tensor:
    """A disc in the lower middle, (1, 1, size, size)."""
    axis = (torch.arange(size) + 0.5) / size - 0.5
    return ((axis[:, None] - 0.1).square() + axis.square() < 0.3**2).float()[None, None]


def test_backgrounds_show_what_is_behind_and_nobody():
    photo = torch.where(person(1024)[0] > 0, RED, BLUE)[None]
    faces = SimpleNamespace(pictures=((photo + 1) * 127.5).to(torch.uint8).expand(2, -1, -1, -1))
    backgrounds = Backgrounds(faces, lambda pictures: person(256).expand(len(pictures), -1, -1, -1))
    plates = backgrounds.sample(3, 256)
    torch.testing.assert_close(plates, BLUE.expand(3, 3, 256, 256), atol=0.02, rtol=0)
    assert torch.equal(backgrounds.masks[:1] == 255, person(256) > 0)


def test_a_person_is_set_before_another_background():
    result = set_before(RED.expand(1, 3, 1024, 1024), person(256), BLUE.expand(1, 3, 1024, 1024))
    torch.testing.assert_close(result[0, :, 600, 512], RED[:, 0, 0])
    torch.testing.assert_close(result[0, :, 20, 20], BLUE[:, 0, 0])


def test_the_adversary_learns_and_pushes_pictures_towards_photos():
    torch.manual_seed(0)
    adversary = Adversary(CHANNELS)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=1e-3)

    def features(shift: float) -> list[torch.Tensor]:
        maps = [torch.randn(4, channels, 16, 16) + shift for channels in (8, *CHANNELS)]
        return [torch.nn.functional.normalize(x, dim=1) for x in maps]

    losses = []
    for _ in range(30):
        loss = adversary_loss(adversary(features(0.1)), adversary(features(-0.1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    adversary.requires_grad_(False)
    assert realism_loss(adversary(features(0.1))) < realism_loss(adversary(features(-0.1)))
    picture = [x.requires_grad_() for x in features(-0.1)]
    realism_loss(adversary(picture)).backward()
    pushes = [-x.grad.mean() for x in picture[1:]]
    assert all(push > 0 for push in pushes)  # photos' features are the larger ones


def free_pairs(shift: float, person: float) -> dict[str, torch.Tensor]:
    """One free pair: the generator's edit changes all by `shift`; a person fills the left half if `person` is 1."""
    left = torch.cat((torch.full((1, 1, 128, 64), person), torch.zeros(1, 1, 128, 64)), 3)
    return {"change": torch.full((1, 3, 128, 128), shift), "person": left, "behind": left.flip(3)}


def test_the_person_is_to_change_and_what_is_behind_to_stay():
    right = torch.zeros(1, 3, 1024, 1024)
    right[..., :512] = 0.05
    terms = StreamTraining.change(None, right, free_pairs(0.05, 1))
    assert max(terms.values()) < 1e-6
    wrong = StreamTraining.change(None, right.flip(3), free_pairs(0.05, 1))
    assert min(wrong.values()) > 0.04
    light = StreamTraining.change(None, torch.full_like(right, 0.3), free_pairs(0.3, 1))
    assert max(light.values()) < 1e-6
    assert all(x.isfinite() for x in StreamTraining.change(None, right, free_pairs(0.3, 0)).values())


def test_a_weak_edit_falls_short_and_a_strong_one_does_not():
    """Features here are the pictures themselves; the generator's edit brightens by 0.4."""

    def features(picture: torch.Tensor) -> list[torch.Tensor]:
        return [picture] * 5

    training = SimpleNamespace(perceptual=SimpleNamespace(features=features))
    black = torch.zeros(1, 3, 256, 256)
    everywhere = torch.ones(1, 1, 256, 256)
    none, half, whole = (
        StreamTraining.extent(training, black + x, black, black, black + 0.4, everywhere).item()
        for x in (0.0, 0.1, 0.4)
    )
    assert none == pytest.approx(1.0)
    assert half == pytest.approx(0.75)
    assert whole == 0
    nobody = torch.zeros_like(everywhere)  # asks for nothing nor divides by nothing
    assert StreamTraining.extent(training, black, black, black, black + 0.4, nobody).isfinite()


def test_an_edit_is_to_be_found_again_as_far_as_in_the_generators_picture():
    """The encoder here reads a picture's mean brightness, the edit raises every code by 1."""

    def codes(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((1, 2, 3))[:, None, None].expand(-1, 16, 512)

    training = SimpleNamespace(read=codes)
    black = torch.zeros(2, 3, 64, 64)
    batch = {"offset": codes(black) + 1, "read": codes(black)}
    none, half, whole = (
        StreamTraining.found(training, black + x, black - 0.5, black - 0.1, batch).item() for x in (0.0, 0.2, 0.4)
    )
    assert none == pytest.approx(0.4)
    assert half == pytest.approx(0.2)
    assert whole == 0
    edited = (black + 0.1).requires_grad_()
    StreamTraining.found(training, edited, black - 0.5, black - 0.1, batch).backward()
    assert (edited.grad < 0).all()
    unchanged = batch | {"offset": codes(black)}  # divides by nothing
    assert StreamTraining.found(training, black, black, black, unchanged) == 0


def test_what_the_generator_leaves_as_it_is_is_to_stay():
    wanted = torch.zeros(1, 3, 1024, 1024)
    wanted[..., 512:] = 0.5
    assert kept(wanted, wanted) < 0.01
    assert kept(wanted.flip(3), wanted) > 0.45


def test_a_flow_is_the_same_way_at_a_coarser_stage():
    assert torch.equal(resized_flow(torch.full((1, 2, 128, 128), 8.0), 16), torch.ones(1, 2, 16, 16))
