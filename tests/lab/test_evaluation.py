"""Metrics against independent computations and known values; the evaluation loop with a small stand-in editor."""

import io
import json
import os
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from skimage.data import astronaut
from skimage.metrics import structural_similarity

from gra_core.alignment import FaceAligner
from gra_core.constants import CHECKPOINT_DIR
from gra_core.errors import (
    CheckpointError,
    GRAError,
    NoFaceError,
    StrengthError,
    UnknownEditError,
    UnreadableImageError,
)
from gra_core.images import image_to_tensor
from gra_core.lab.evaluation import evaluate as evaluation
from gra_core.lab.evaluation.methods import Method
from gra_core.lab.evaluation.summary import bootstrap_interval
from gra_core.lab.pictures import picture_files
from gra_core.metrics import identity, perceptual
from gra_core.metrics import pixels as metrics
from gra_core.metrics.identity import face_descriptor, identity_distance
from gra_core.models.generator import Generator, broadcast_w

GENERATOR_FILE = CHECKPOINT_DIR / "generator.safetensors"
needs_lpips_weights = pytest.mark.skipif(
    not os.environ.get(perceptual.WEIGHTS_VARIABLE),
    reason=f"{perceptual.WEIGHTS_VARIABLE} does not name a weights file; nothing is downloaded in tests",
)
needs_generator = pytest.mark.skipif(
    not GENERATOR_FILE.is_file(), reason="checkpoints/generator.safetensors is missing"
)


@pytest.fixture(scope="module")
def photo_pair(face) -> tuple[torch.Tensor, torch.Tensor]:
    """The face and a blurred copy, 1x3x256x256 in [-1, 1]."""
    blurred = face.filter(ImageFilter.GaussianBlur(4))
    return tuple(metrics.resize(image_to_tensor(picture), 256) for picture in (face, blurred))


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def upstream_names(model: perceptual.LPIPS) -> dict[str, torch.Tensor]:
    """The model's weights under the names of the lpips package, with its duplicates and its scaling layer."""
    state = {"scaling_layer.shift": model.shift, "scaling_layer.scale": model.scale}
    trunk = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")
    for index, (name, convolution, head) in enumerate(zip(trunk, model.convolutions, model.heads, strict=True)):
        state[f"net.{name}.weight"], state[f"net.{name}.bias"] = convolution.weight, convolution.bias
        state[f"lin{index}.model.1.weight"] = state[f"lins.{index}.model.1.weight"] = head.weight
    return {name: value.detach().clone() for name, value in state.items()}


# LPIPS


def lpips_by_hand(model: perceptual.LPIPS, first: torch.Tensor, second: torch.Tensor) -> float:
    """LPIPS of one pair in float64: convolutions as matrix products, the rest in numpy."""
    mean, std = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])

    def convolve(x: np.ndarray, layer: torch.nn.Conv2d) -> np.ndarray:
        size, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        patches = F.unfold(torch.from_numpy(x)[None], size, padding=padding, stride=stride)[0].numpy()
        weight = layer.weight.double().numpy().reshape(layer.out_channels, -1)
        height, width = ((side + 2 * padding - size) // stride + 1 for side in x.shape[1:])
        return (weight @ patches + layer.bias.double().numpy()[:, None]).reshape(-1, height, width)

    def pool(x: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        return windows[:, ::2, ::2].max(axis=(3, 4))

    def features(picture: torch.Tensor) -> list[np.ndarray]:
        x = (picture[0].double().numpy() - mean[:, None, None]) / std[:, None, None]
        maps = []
        for index, layer in enumerate(model.convolutions):
            x = np.maximum(convolve(pool(x) if index in (1, 2) else x, layer), 0)
            maps.append(x / (np.linalg.norm(x, axis=0) + 1e-10))
        return maps

    total = 0.0
    for a, b, head in zip(features(first), features(second), model.heads, strict=True):
        total += np.einsum("c,chw->hw", head.weight.double().numpy().ravel(), (a - b) ** 2).mean()
    return float(total)


def test_lpips_agrees_with_a_computation_by_hand(random_lpips):
    a, b = pictures(1, 1, 3, 67, 80), pictures(2, 1, 3, 67, 80)
    assert random_lpips(a, b).item() == pytest.approx(lpips_by_hand(random_lpips, a, b), rel=1e-4)


def test_lpips_is_zero_for_equal_pictures_symmetric_and_grows_with_noise(random_lpips, photo_pair):
    picture, noise = photo_pair[0], pictures(3, 1, 3, 256, 256)
    assert random_lpips(picture, picture).item() == 0
    distances = [random_lpips(picture, picture + amount * noise).item() for amount in (0.02, 0.1, 0.4)]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert random_lpips(*photo_pair).item() == pytest.approx(random_lpips(*reversed(photo_pair)).item(), rel=1e-6)


def test_lpips_of_a_batch_is_that_of_its_pairs(random_lpips):
    a, b = pictures(4, 3, 3, 64, 64), pictures(5, 3, 3, 64, 64)
    batch = random_lpips(a, b)
    assert batch.shape == (3,)
    one_by_one = torch.cat([random_lpips(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(batch, one_by_one, rtol=1e-5, atol=1e-7)


def test_lpips_gradient_reaches_the_picture_even_where_features_vanish(random_lpips):
    model = perceptual.LPIPS()
    model.load_state_dict(random_lpips.state_dict())
    model.convolutions[0].bias.fill_(-100.0)  # every feature of the first layer is 0: the root's worst case
    for network, expected_zero in ((random_lpips, False), (model, True)):
        a = pictures(6, 1, 3, 64, 64).requires_grad_()
        network(a, pictures(7, 1, 3, 64, 64)).sum().backward()
        assert a.grad.isfinite().all()
        assert (a.grad.abs().max().item() == 0) == expected_zero
    assert not any(parameter.requires_grad for parameter in random_lpips.parameters())


def test_lpips_refuses_pictures_of_different_sizes(random_lpips):
    with pytest.raises(ValueError, match="one size"):
        random_lpips(pictures(0, 1, 3, 64, 64), pictures(0, 1, 3, 64, 65))


def test_lpips_weights_are_read_from_a_named_file(random_lpips, tmp_path, monkeypatch):
    path = tmp_path / "lpips.pt"
    torch.save(upstream_names(random_lpips), path)
    a, b = pictures(8, 1, 3, 64, 64), pictures(9, 1, 3, 64, 64)
    assert perceptual.load_lpips(path)(a, b).item() == random_lpips(a, b).item()
    monkeypatch.setenv(perceptual.WEIGHTS_VARIABLE, str(path))
    assert perceptual.load_lpips()(a, b).item() == random_lpips(a, b).item()


def test_bad_lpips_weights_are_refused(random_lpips, tmp_path):
    with pytest.raises(CheckpointError, match="no LPIPS weights file"):
        perceptual.load_lpips(tmp_path / "none.pt")
    damaged = tmp_path / "damaged.pt"
    torch.save(upstream_names(random_lpips), damaged)
    damaged.write_bytes(damaged.read_bytes()[:100_000])
    text = tmp_path / "text.pt"
    text.write_text("not weights")
    empty = tmp_path / "empty.pt"
    empty.touch()
    for path in (damaged, text, empty):
        with pytest.raises(CheckpointError, match="cannot be read"):
            perceptual.load_lpips(path)
    other = tmp_path / "other.pt"
    for content in ({"weight": torch.zeros(3)}, [1, 2], upstream_names(random_lpips) | {"lin0.model.1.weight": 1}):
        torch.save(content, other)
        with pytest.raises(CheckpointError, match="does not hold"):
            perceptual.load_lpips(other)


def test_downloaded_trunk_and_heads_are_merged(random_lpips, monkeypatch):
    named = upstream_names(random_lpips)
    heads = {name: value for name, value in named.items() if name.startswith("lin") and "lins" not in name}
    trunk = {"classifier.1.weight": torch.zeros(1)}
    for layer, convolution in zip((0, 3, 6, 8, 10), random_lpips.convolutions, strict=True):
        trunk[f"features.{layer}.weight"] = convolution.weight
        trunk[f"features.{layer}.bias"] = convolution.bias

    def download(url, **options):
        assert options["weights_only"] and options["check_hash"]
        return {"download.pytorch.org": trunk, "raw.githubusercontent.com": heads}[url.split("/")[2]]

    monkeypatch.delenv(perceptual.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    a, b = pictures(10, 1, 3, 64, 64), pictures(11, 1, 3, 64, 64)
    assert perceptual.load_lpips()(a, b).item() == random_lpips(a, b).item()


def test_a_failed_download_says_what_to_do(monkeypatch):
    def download(url, **options):
        raise URLError("no route to host")

    monkeypatch.delenv(perceptual.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with pytest.raises(CheckpointError, match=perceptual.WEIGHTS_VARIABLE):
        perceptual.load_lpips()


@needs_lpips_weights
def test_lpips_with_the_published_weights_gives_the_known_values(photo_pair):
    model = perceptual.load_lpips()
    ramp = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    # From lpips 0.1.4, LPIPS(net="alex"), on the same tensors.
    assert model(ramp, ramp.transpose(2, 3)).item() == pytest.approx(0.553592, abs=1e-5)
    assert model(*photo_pair).item() == pytest.approx(0.302354, abs=5e-4)


# Pixel metrics


def test_mse_and_psnr_of_a_known_difference():
    a = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), -1.0)])
    b = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 1.0)])
    torch.testing.assert_close(metrics.mse(a, b), torch.tensor([0.04, 4.0]))
    torch.testing.assert_close(metrics.psnr(a, b), torch.tensor([20.0, 0.0]), atol=1e-5, rtol=0)
    assert metrics.psnr(a, a).isinf().all()
    with pytest.raises(ValueError, match="one size"):
        metrics.mse(a, b[:1])


def test_ms_ssim_scales_agree_with_scikit_image(photo_pair):
    a, b = ((picture.double() + 1) / 2 for picture in photo_pair)
    similarity, _ = metrics._similarity_maps(a, b)
    _, expected = structural_similarity(
        a[0].numpy(),
        b[0].numpy(),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    np.testing.assert_allclose(similarity[0].numpy(), expected[:, 5:-5, 5:-5], atol=1e-6)


def test_ms_ssim_properties(photo_pair):
    picture, blurred = photo_pair
    noise = pictures(12, 1, 3, 256, 256)
    assert metrics.ms_ssim(picture, picture).item() == pytest.approx(1, abs=1e-6)
    values = [metrics.ms_ssim(picture, picture + amount * noise).item() for amount in (0.05, 0.2, 0.8)]
    assert 1 > values[0] > values[1] > values[2] > 0
    forth, back = metrics.ms_ssim(picture, blurred), metrics.ms_ssim(blurred, picture)
    assert forth.item() == pytest.approx(back.item(), abs=1e-6)
    assert metrics.ms_ssim(picture, -picture).item() < 0.1
    # From pytorch-msssim 1.0.0 on the same tensors.
    assert forth.item() == pytest.approx(0.961256, abs=5e-4)


def test_ms_ssim_of_flat_pictures_is_the_luminance_of_the_coarsest_scale():
    a, b = torch.full((1, 3, 176, 192), -0.5), torch.full((1, 3, 176, 192), 0.2)  # 0.25 and 0.6 in [0, 1]
    luminance = (2 * 0.25 * 0.6 + 1e-4) / (0.25**2 + 0.6**2 + 1e-4)
    assert metrics.ms_ssim(a, b).item() == pytest.approx(luminance**0.1333, abs=1e-4)


def test_ms_ssim_needs_more_than_160_px():
    assert metrics.ms_ssim(*pictures(13, 2, 1, 3, 161, 161)).isfinite().all()
    with pytest.raises(ValueError, match="160"):
        metrics.ms_ssim(*pictures(13, 2, 1, 3, 160, 256))


def test_resize_averages_detail_away_instead_of_picking_pixels():
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    small = metrics.resize(checkerboard.expand(1, 3, 64, 64), 16)
    assert small.shape == (1, 3, 16, 16)
    assert small.abs().max().item() < 0.05
    picture = pictures(14, 1, 3, 16, 16)
    assert metrics.resize(picture, 16) is picture


# Identity


def test_identity_survives_what_keeps_the_person(face):
    descriptor = face_descriptor(face)
    assert descriptor.shape == (128,)
    assert identity_distance(descriptor, face_descriptor(face)) == 0
    compressed = io.BytesIO()
    face.save(compressed, "JPEG", quality=75)
    assert identity_distance(descriptor, face_descriptor(Image.open(compressed))) < 0.15
    brighter = face.point(lambda value: min(255, round(value * 1.25)))
    assert identity_distance(descriptor, face_descriptor(brighter)) < 0.25
    mirrored = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert identity_distance(descriptor, face_descriptor(mirrored)) < 0.4


def test_identity_falls_back_to_the_fixed_rectangle(face, monkeypatch):
    seen = []
    models = identity._models()

    def predictor(pixels, rectangle):
        seen.append(rectangle)
        return models.predictor(pixels, rectangle)

    elsewhere = identity.dlib.rectangle(0, 0, 90, 90)
    for found in ([], [elsewhere]):
        stand_in = SimpleNamespace(detector=lambda *_, f=found: f, predictor=predictor, network=models.network)
        monkeypatch.setattr(identity, "_models", lambda stand_in=stand_in: stand_in)
        descriptor = face_descriptor(face)
        assert (seen[-1].left(), seen[-1].top(), seen[-1].right(), seen[-1].bottom()) == (95, 164, 405, 474)
        monkeypatch.undo()
        assert identity_distance(descriptor, face_descriptor(face)) < 0.2


def test_missing_face_models_are_named(monkeypatch):
    monkeypatch.setattr(identity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="face_recognition_models"):
        identity._model_file("shape_predictor_5_face_landmarks.dat")


@needs_generator
def test_identity_tells_a_generated_face_from_the_astronaut(face):
    generator = Generator()
    generator.load_state_dict({name: value.float() for name, value in load_file(GENERATOR_FILE).items()})
    with torch.inference_mode():
        average = generator(broadcast_w(generator.mean_w[None])).clamp(-1, 1)[0]
    pixels = ((average + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert identity_distance(face_descriptor(Image.fromarray(pixels)), face_descriptor(face)) > 0.6


# The evaluation loop


class BlurEditor:
    """Follows the interface of PortraitEditor: reconstructs with a slight blur, edits by turning the picture."""

    device = "cpu"
    edits = {"smile": SimpleNamespace(minimum=-100, maximum=100), "glasses": SimpleNamespace(minimum=0, maximum=100)}  # noqa: RUF012

    def invert(self, aligned):
        return aligned.resize((1024, 1024), Image.Resampling.BICUBIC)

    def edit(self, inversion, strengths):
        picture = inversion.filter(ImageFilter.GaussianBlur(2))
        return picture.rotate(sum(strengths.values()) / 10, Image.Resampling.BILINEAR)

    def low_rate(self, inversion, strengths=()):
        return self.edit(inversion, dict(strengths)).filter(ImageFilter.GaussianBlur(16))


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    return FaceAligner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, face):
    """An aligned face, a photo with a face, a picture without one, a broken file, and files to pass over."""
    directory = tmp_path_factory.mktemp("portraits")
    face.resize((1024, 1024), Image.Resampling.BICUBIC).save(directory / "a.png")
    Image.fromarray(astronaut()).save(directory / "b.JPG", quality=95)
    Image.radial_gradient("L").convert("RGB").save(directory / "c.webp")
    (directory / "d.png").write_bytes(b"not a picture")
    (directory / "notes.txt").write_text("passed over")
    (directory / ".hidden.png").write_bytes(b"passed over")
    return directory


@pytest.fixture(scope="module")
def report(folder, aligner, random_lpips):
    lines = []
    result = evaluation.evaluate(
        BlurEditor(),
        picture_files(folder),
        edits=("smile", "glasses"),
        progress=lambda *line: lines.append(line),
        aligner=aligner,
        lpips=random_lpips,
    )
    return result, lines


def test_pictures_are_listed_in_order(folder, tmp_path):
    assert [path.name for path in picture_files(folder)] == ["a.png", "b.JPG", "c.webp", "d.png"]
    with pytest.raises(UnreadableImageError, match="no pictures"):
        picture_files(tmp_path)
    with pytest.raises(UnreadableImageError, match="no directory"):
        picture_files(tmp_path / "none")


def test_aligned_portraits_are_used_as_they_are_and_photos_are_aligned(folder, aligner, face, tmp_path):
    aligned = evaluation.load_portrait(folder / "a.png", aligner)
    assert aligned.was_aligned
    assert aligned.native_px == 1024
    assert aligned.crop.tobytes() == Image.open(folder / "a.png").tobytes()

    cut_out = evaluation.load_portrait(folder / "b.JPG", aligner)
    assert not cut_out.was_aligned  # square, but the face is small and off the middle
    assert cut_out.crop.size == (1024, 1024)
    assert 120 < cut_out.native_px < 300
    distance = identity_distance(face_descriptor(cut_out.crop), face_descriptor(face))
    assert distance < 0.3

    cut_out.crop.save(tmp_path / "again.png")
    assert evaluation.load_portrait(tmp_path / "again.png", aligner).was_aligned
    with pytest.raises(NoFaceError):
        evaluation.load_portrait(folder / "c.webp", aligner)


def test_report_lists_every_picture_once(report):
    result, lines = report
    assert [entry["file"] for entry in result["per_image"]] == ["a.png", "b.JPG"]
    assert [entry["file"] for entry in result["skipped"]] == ["c.webp", "d.png"]
    assert all(entry["reason"] for entry in result["skipped"])
    assert [line[:2] for line in lines] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "skipped" in lines[2][2]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_report_figures_are_those_of_the_pictures(report, folder, random_lpips):
    result, _ = report
    editor, source = BlurEditor(), Image.open(folder / "a.png")
    reconstruction = editor.edit(editor.invert(source), {})
    large = [image_to_tensor(picture) for picture in (reconstruction, source)]
    small = [metrics.resize(picture, 256) for picture in large]
    figures = result["per_image"][0]["methods"]["gra"]["reconstruction"]
    assert figures["lpips"] == pytest.approx(random_lpips(*small).item(), rel=1e-4)
    assert figures["mse"] == pytest.approx(metrics.mse(*small).item(), rel=1e-4)
    assert figures["psnr_full"] == pytest.approx(metrics.psnr(*large).item(), rel=1e-4)
    assert figures["lpips_full"] == pytest.approx(random_lpips(*large).item(), rel=1e-4)
    expected = identity_distance(face_descriptor(source), face_descriptor(reconstruction))
    assert figures["identity"] == pytest.approx(expected, abs=1e-5)
    turned = editor.edit(editor.invert(source), {"smile": -60.0})
    expected = identity_distance(face_descriptor(source), face_descriptor(turned))
    measured = result["per_image"][0]["methods"]["gra"]["edits"]["smile-60"]["identity"]
    assert measured == pytest.approx(expected, abs=1e-5)
    assert measured > figures["identity"]


def test_report_compares_methods_and_leaves_out_what_does_not_exist(report):
    result, _ = report
    for entry in result["per_image"]:
        assert list(entry["methods"]) == ["low_rate", "gra"]
        blurred, sharp = (entry["methods"][name]["reconstruction"] for name in ("low_rate", "gra"))
        assert blurred["lpips"] > sharp["lpips"] > 0
        assert blurred["ms_ssim"] < sharp["ms_ssim"] < 1
        assert blurred["psnr"] < sharp["psnr"]
        assert list(entry["methods"]["gra"]["edits"]) == ["smile+60", "smile-60", "glasses+60"]  # glasses: one-sided
        assert entry["methods"]["gra"]["invert_seconds"] > 0
    large, small = (entry["methods"]["gra"]["reconstruction"] for entry in result["per_image"])
    assert large["psnr_full"] > 0 < large["lpips_full"]
    assert small["psnr_full"] is None
    assert small["lpips_full"] is None


def test_summary_is_mean_median_and_interval_over_pictures(report):
    result, _ = report
    values = [entry["methods"]["gra"]["reconstruction"]["mse"] for entry in result["per_image"]]
    figure = result["summary"]["gra"]["reconstruction"]["mse"]
    assert figure["n"] == 2
    assert figure["mean"] == pytest.approx(np.mean(values), rel=1e-5)
    assert figure["ci95"] == pytest.approx(sorted(values), rel=1e-5)
    full = result["summary"]["gra"]["reconstruction"]["psnr_full"]
    assert full["n"] == 1
    assert result["summary"]["low_rate"]["edits"]["glasses+60"]["identity"]["n"] == 2


def test_markdown_table_has_a_row_for_each_method(report):
    table = evaluation.markdown_table(report[0])
    assert "2 portraits measured, 2 skipped" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert sum(row.startswith("| gra |") for row in rows) == 2
    assert sum(row.startswith("| low_rate |") for row in rows) == 2
    assert len({row.count("|") for row in rows[: len(rows) // 2]}) == 1
    mean = report[0]["summary"]["gra"]["reconstruction"]["lpips"]["mean"]
    assert f"{mean:.4f} [" in table


def test_other_methods_are_more_rows_and_equal_pictures_have_no_psnr(folder, aligner, random_lpips):
    result = evaluation.evaluate(
        BlurEditor(),
        [folder / "a.png", folder / "b.JPG"],
        edits=(),
        limit=1,
        methods={"copy": Method(lambda portrait: portrait, lambda inversion, strengths: inversion)},
        aligner=aligner,
        lpips=random_lpips,
    )
    assert [entry["file"] for entry in result["per_image"]] == ["a.png"]
    figures = result["summary"]["copy"]["reconstruction"]
    assert figures["lpips"]["mean"] == figures["mse"]["mean"] == figures["identity"]["mean"] == 0
    assert figures["psnr"] == {"n": 0, "mean": None, "median": None, "ci95": None}
    assert "| copy | 0.0000 [0.0000, 0.0000] |" in evaluation.markdown_table(result)


def test_bootstrap_interval_is_repeatable_and_near_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 200)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    half = 1.96 * values.std() / 200**0.5
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)
    assert bootstrap_interval([3.0]) == (3.0, 3.0)


def test_impossible_edits_are_refused(random_lpips, aligner):
    options = {"aligner": aligner, "lpips": random_lpips}
    with pytest.raises(UnknownEditError, match="frown"):
        evaluation.evaluate(BlurEditor(), [], edits=("frown",), **options)
    for strength in (0, -60, 101, float("nan")):
        with pytest.raises(StrengthError):
            evaluation.evaluate(BlurEditor(), [], edits=("smile",), strength=strength, **options)


@pytest.fixture
def stand_in_editor(monkeypatch, random_lpips):
    monkeypatch.setattr(evaluation.PortraitEditor, "from_pretrained", lambda source, device: BlurEditor())
    monkeypatch.setattr(evaluation, "load_lpips", lambda device: random_lpips)


@pytest.mark.usefixtures("stand_in_editor")
def test_run_writes_the_report_and_prints_the_table(folder, tmp_path, capsys):
    out = tmp_path / "report.json"
    result = evaluation.run(folder, out, methods=["gra"], edits=("smile",), limit=3)
    assert json.loads(out.read_text()) == result
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    printed = capsys.readouterr()
    assert printed.out == evaluation.markdown_table(result)
    assert "[3/3] c.webp: skipped" in printed.err
    assert result["settings"]["methods"] == ["gra"]
    assert result["settings"]["edits"] == ["smile+60", "smile-60"]


@pytest.mark.usefixtures("stand_in_editor")
def test_pictures_are_compared_where_they_are_made(folder, monkeypatch, random_lpips):
    """Also when nobody names the device: the editor takes a GPU by itself."""
    asked = []
    monkeypatch.setattr(BlurEditor, "device", "cuda")
    monkeypatch.setattr(evaluation, "load_lpips", lambda device: asked.append(device) or random_lpips)
    monkeypatch.setattr(evaluation, "PictureFeatures", asked.append)
    evaluation.run(folder, edits=(), limit=0, kid=True)
    assert asked == ["cuda", "cuda"]


@pytest.mark.usefixtures("stand_in_editor")
def test_run_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    out = tmp_path / "report.json"
    out.write_text("older")
    monkeypatch.setattr(BlurEditor, "invert", lambda self, aligned: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluation.run(folder, out, edits=())
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_run_refuses_bad_targets_before_it_starts(folder, tmp_path):
    with pytest.raises(GRAError, match="no method magic"):
        evaluation.run(folder, tmp_path / "report.json", methods=["magic"])
    with pytest.raises(OSError, match="none"):
        evaluation.run(folder, tmp_path / "none" / "report.json")
    with pytest.raises(IsADirectoryError):
        evaluation.run(folder, tmp_path)
    assert not list(tmp_path.iterdir())
