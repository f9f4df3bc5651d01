"""Encoder, Reconstruction Stream and Editing Stream as parts: shapes, gradients, and what the aligner promises."""

import pytest
import torch

from gra_core.images import image_to_tensor
from gra_core.models.editing import (
    SelectiveAttention,
    changing,
    neighbourhood,
    window_similarity,
)
from gra_core.models.encoder import CodeEstimator, Encoder, LatentSpace, to_encoder_size
from gra_core.models.generator import FEATURE_CHANNELS, Generator, broadcast_w, without_artefacts
from gra_core.models.layers import RESIDUAL_CHANNELS, STAGES, GateFusion, StreamsDesign
from gra_core.models.reconstruction import GradualResidualModule, ReconstructionStream
from gra_core.models.streams import DESIGNS, Streams


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return generator.eval().requires_grad_(False)


@pytest.fixture
def photo() -> torch.Tensor:
    torch.manual_seed(1)
    small = torch.rand(1, 3, 64, 64) * 2 - 1
    return torch.nn.functional.interpolate(small, size=1024, mode="bilinear")


def wake(module: torch.nn.Module) -> torch.nn.Module:
    """Give the layers that start at zero some weight, so that a test sees what they do."""
    torch.manual_seed(2)
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return module


def test_encoder_changes_a_code_and_learns_from_both_pictures():
    encoder = wake(Encoder()).train()
    photo, shown = torch.randn(2, 2, 3, 256, 256, requires_grad=True)
    change = encoder(photo, shown)
    assert change.shape == (2, 16, 512)
    change.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in encoder.face.parameters())


def some_w() -> torch.Tensor:
    """In place of the mapping network's, always the same, (2000, 512)."""
    random = torch.Generator().manual_seed(3)
    return torch.nn.functional.leaky_relu(3 + torch.randn(2000, 512, generator=random), 0.2)


def test_encoder_starts_at_the_average_face(generator):
    encoder = Encoder().eval()
    encoder.latent_space.fit(some_w())
    with torch.no_grad():
        codes = CodeEstimator(generator, encoder)(torch.rand(1, 3, 256, 256))
    torch.testing.assert_close(codes, encoder.latent_space(torch.zeros(1, 16, 512)))
    torch.testing.assert_close(codes, broadcast_w(some_w().mean(0, keepdim=True)), atol=0.02, rtol=0)


def test_latents_of_the_generators_own_w_are_standard_normal():
    torch.manual_seed(0)
    mixing = torch.randn(512, 512) / 20 * torch.logspace(-2, 0, 512)
    linear = torch.randn(20_000, 512) @ mixing.T + 0.1
    w = torch.nn.functional.leaky_relu(linear, 0.2)
    space = LatentSpace()
    space.fit(w)
    latents = torch.linalg.solve(space.axes.double().T, (linear.double() - space.origin).T).T
    torch.testing.assert_close(torch.cov(latents.T), torch.eye(512, dtype=torch.float64), atol=0.05, rtol=0)
    typical = latents[:8].float().clamp(-2, 2)
    codes = space(typical)
    assert torch.nn.functional.cosine_similarity(codes, w[:8]).min() > 0.95
    torch.testing.assert_close(space.inverse(codes), typical, atol=0.02, rtol=0.02)
    far = torch.randn(8, 512).sign()
    torch.testing.assert_close(space(100 * far), space(1e6 * far))  # bounded, whatever comes in


def test_encoder_refuses_other_sizes():
    with pytest.raises(ValueError, match="256 px"):
        Encoder()(torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))


def test_to_encoder_size_averages():
    image = torch.arange(1024.0).expand(1, 3, 1024, 1024)
    torch.testing.assert_close(to_encoder_size(image)[0, 0, 0, :2], torch.tensor([1.5, 5.5]))


def test_gate_fusion_starts_as_identity_and_then_changes_the_feature():
    feature, residual = torch.randn(2, 8, 5, 5), torch.randn(2, 4, 5, 5)
    fusion = GateFusion(8, 4, 6)
    torch.testing.assert_close(fusion(feature, residual), feature)
    assert not torch.allclose(wake(fusion)(feature, residual), feature)


def test_a_gradual_residual_module_sees_photo_and_feature():
    module = wake(GradualResidualModule(16, FEATURE_CHANNELS[16]))
    photo_feature = torch.randn(1, 160, 16, 16, requires_grad=True)
    feature = torch.randn(1, FEATURE_CHANNELS[16], 16, 16, requires_grad=True)
    residual, repaired = module(photo_feature, feature)
    assert residual.shape == (1, RESIDUAL_CHANNELS[16], 16, 16)
    assert repaired.shape == feature.shape
    residual.square().sum().backward()
    assert photo_feature.grad.abs().sum() > 0
    assert feature.grad.abs().sum() > 0


def test_residuals_are_gradual(generator, photo):
    """What stage 16 repairs changes the feature, hence the residual, of every later stage; not its own."""
    stream = wake(ReconstructionStream())
    codes = broadcast_w(torch.randn(1, 512))
    with torch.no_grad():
        before = stream(generator, codes, photo)
        torch.nn.init.normal_(stream.modules_by_stage["16"].fuse.residual.weight, std=0.5)
        after = stream(generator, codes, photo)
    changed = [not torch.allclose(a, b) for a, b in zip(before.residuals, after.residuals, strict=True)]
    assert changed == [False, True, True, True]


def test_streams_shapes_and_gradients(generator, photo):
    streams = wake(Streams())
    codes = broadcast_w(torch.randn(1, 512))
    found = streams.reconstruction(generator, codes, photo)
    assert [tuple(r.shape) for r in found.residuals] == [(1, RESIDUAL_CHANNELS[m], m, m) for m in STAGES]
    source = streams.editing.prepare(generator, codes, photo, found.residuals)
    edit = streams.editing(generator, codes + 0.3 * torch.randn_like(codes), source)
    assert edit.picture.shape == edit.before_pixels.shape == (1, 3, 1024, 1024)
    assert {side: tuple(flow.shape) for side, flow in edit.flows.items()} == {m: (1, 2, m, m) for m in STAGES}
    (edit.picture.square().mean() + found.image.square().mean()).backward()
    dead = [n for n, p in streams.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead


def test_one_shot_injection_repairs_one_stage_where_it_is(generator, photo):
    streams = wake(Streams(DESIGNS["one_shot"]))
    codes = broadcast_w(torch.randn(1, 512))
    with torch.no_grad():
        found = streams.reconstruction(generator, codes, photo)
        source = streams.editing.prepare(generator, codes, photo, found.residuals)
        edit = streams.editing(generator, codes + torch.randn_like(codes), source)
    torch.testing.assert_close(streams.reconstruction.residuals(generator, codes, photo), found.residuals)
    assert list(edit.flows) == [64]
    assert not edit.flows[64].any()
    torch.testing.assert_close(edit.aligned[64], found.residuals[0])
    assert edit.picture is edit.before_pixels


def test_every_design_survives_being_written_down():
    assert [StreamsDesign.from_json(design.to_json()) for design in DESIGNS.values()] == list(DESIGNS.values())


@pytest.mark.parametrize("design", ["gra", "gradual_dense", "gradual_unaligned"])
def test_without_an_edit_nothing_moves_and_the_photo_comes_back(generator, photo, design):
    """Whatever was learned: each stage is compared with the stream's own run without an edit."""
    streams = wake(Streams(DESIGNS[design]))
    codes = broadcast_w(torch.randn(1, 512))
    with torch.no_grad():
        found = streams.reconstruction(generator, codes, photo)
        source = streams.editing.prepare(generator, codes, photo, found.residuals)
        edit = streams.editing(generator, codes, source)
        moved = streams.editing(generator, codes + 0.3 * torch.randn_like(codes), source)
    assert not any(flow.any() for flow in edit.flows.values())
    torch.testing.assert_close(edit.aligned[64], found.residuals[2])
    torch.testing.assert_close(edit.picture, photo, atol=1e-5 * float(source.pixels.abs().max()), rtol=0)
    assert (moved.picture - photo).abs().mean() > 1e-3


def test_a_change_counts_around_itself_and_nowhere_else():
    difference = torch.zeros(1, 3, 32, 32)
    difference[:, 1, 10, 10] = 0.5
    share = changing(difference)
    assert share.shape == (1, 1, 32, 32)
    assert share[0, 0, 10, 10] > 0.9
    assert 0 < share[0, 0, 13, 10] < share[0, 0, 10, 10]
    assert not share[0, 0, 20:].any()


@pytest.mark.parametrize("alignment", ["selective", "dense"])
@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-1, 3)])
def test_selective_attention_finds_a_shift(shift, alignment):
    """A feature moved by whole positions is found where it came from, before anything is learned."""
    torch.manual_seed(4)
    attention = SelectiveAttention(16, alignment, FEATURE_CHANNELS[16])
    feature = torch.randn(1, FEATURE_CHANNELS[16], 16, 16)
    moved = torch.roll(feature, (-shift[1], -shift[0]), (2, 3))  # position p shows the source's p + shift
    flow, context = attention(moved, attention.embed(feature), torch.zeros(1, 2, 16, 16))
    inside = flow[0, :, 4:12, 4:12]
    expected = torch.tensor(shift, dtype=torch.float32)[:, None, None].expand_as(inside)
    torch.testing.assert_close(inside, expected, atol=0.15, rtol=0)
    assert context.shape == (1, 64 + 2, 16, 16)


def test_neighbourhood_lists_the_window_row_by_row():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    window = neighbourhood(x, 1)[0, :, 0, 2, 2]
    assert window.tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_similarities_are_the_same_with_and_without_gradients(layout):
    query, key = (torch.randn(2, 8, 12, 12).contiguous(memory_format=layout) for _ in range(2))
    with torch.no_grad():
        fast = window_similarity(query, key, 2)
    torch.testing.assert_close(fast, window_similarity(query, key, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast[:, 12], (query * key).sum(1))  # the middle of the window
    torch.testing.assert_close(fast[:, 13, :, :-1], (query[..., :-1] * key[..., 1:]).sum(1))  # one to the right


def test_an_upsampling_artefact_goes_and_the_photo_stays(astronaut):
    photo = image_to_tensor(astronaut.resize((1024, 1024)))
    torch.manual_seed(0)
    artefact = torch.randn(1, 3, 8, 8).clamp(-2, 2)
    artefact = 0.02 * (artefact - artefact.mean((2, 3), keepdim=True)).repeat(1, 1, 128, 128)
    fading = torch.linspace(0.5, 1, 1024)[:, None]
    smooth = torch.nn.functional.avg_pool2d(photo, 31, 1, 15, count_include_pad=False)
    left = without_artefacts(smooth + fading * artefact) - smooth
    assert left.std() < 0.2 * artefact.std()
    assert (without_artefacts(photo) - photo).square().mean() < 4 * 10**-5  # a PSNR of 50 dB
    edge = torch.where(torch.arange(1024) < 500, -0.8, 0.8).expand(1, 3, 1024, 1024)
    assert (without_artefacts(edge) - edge).abs().max() < 0.01
