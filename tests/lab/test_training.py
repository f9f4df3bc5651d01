"""The parts of the training."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from small_nets import write_nets

from gra_core.constants import ENCODER_SIZE
from gra_core.errors import CheckpointError
from gra_core.images import from_bytes, to_bytes
from gra_core.lab.training import prepare
from gra_core.lab.training.data import (
    NamedOffsets,
    RealFaces,
    affine_motion,
    apply_tone,
    inverse_flow,
    random_flow,
    random_glasses,
    random_offsets,
    random_tone,
)
from gra_core.lab.training.loop import FACE_NET_FILE
from gra_core.lab.training.losses import excess_texture, eye_difference, eye_weights, load_face_net
from gra_core.lab.training.perceptual import ALEXNET_FILE, SLICES, VGG_FILE, load_published
from gra_core.lab.training.prepared import PreparedSet
from gra_core.lab.training.runtime import cosine_rate, load_weights, save_weights
from gra_core.models.generator import Generator
from gra_core.models.maps import upscale_flow, warp
from gra_core.models.streams import DESIGNS, Streams

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> Path:
    """Files of the published forms with random weights."""
    folder = tmp_path_factory.mktemp("nets")
    write_nets(folder)
    return folder


@pytest.fixture(scope="module")
def data(face, tmp_path_factory) -> PreparedSet:
    """Three photos of a person who is turned."""
    folder, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("prepared")
    for i in range(3):
        (folder / "train").mkdir(exist_ok=True)
        face.rotate(3 * i).save(folder / "train" / f"{i}.png")
    (folder / "index.csv").write_text("file,person\n" + "".join(f"train/{i}.png,a\n" for i in range(3)))
    prepare.main(["--photos", str(folder), "--out", str(out)])
    return PreparedSet(out)


@pytest.mark.parametrize("file", SLICES)
def test_perceptual_distance_grows_with_the_difference(file, nets):
    distance = load_published(nets / file)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    noise = torch.randn_like(picture)
    assert distance(picture, picture).abs().max() < 1e-6
    near, far = (distance(picture + s * noise, picture) for s in (0.05, 0.5))
    assert 0 < near < far
    moved = picture.clone().requires_grad_()
    distance(moved, picture + noise).sum().backward()
    assert moved.grad.abs().sum() > 0


def test_alexnets_first_convolution_is_the_published_one_but_for_the_rim(nets):
    net = load_published(nets / ALEXNET_FILE)
    ((conv,), *_), picture = net.slices, torch.rand(1, 3, 64, 64) * 2 - 1
    published = net._halve(conv(picture), 2)
    at_once = net._halved_conv(picture, conv)
    assert at_once.shape == published.shape
    torch.testing.assert_close(at_once[:, :, 1:-1, 1:-1], published[:, :, 1:-1, 1:-1])


def test_another_file_is_refused_as_perceptual_net(nets, tmp_path):
    state = torch.load(nets / VGG_FILE)
    del state["lin4.model.1.weight"]
    torch.save(state, tmp_path / VGG_FILE)
    with pytest.raises(CheckpointError, match=VGG_FILE):
        load_published(tmp_path / VGG_FILE)


def test_eyes_of_another_colour_are_further_apart_than_darker_ones():
    weights = eye_weights(torch.device("cpu"))
    assert weights.sum() == pytest.approx(1)
    nothing = torch.zeros(2, 3, 256, 256)
    blue = torch.tensor([-0.2, 0.0, 0.2])[:, None, None]
    eye, cheek = (slice(117, 128), slice(90, 104)), (slice(160, 171), slice(90, 104))
    darker, bluer, elsewhere = nothing.clone(), nothing.clone(), nothing.clone()
    darker[0, :, *eye], bluer[0, :, *eye], elsewhere[0, :, *cheek] = -0.2, blue, blue
    shade, colour, none = (eye_difference(x, weights) for x in (darker, bluer, elsewhere))
    assert colour[0] > 3 * shade[0] > 0
    assert none[0] < 1e-3 * colour[0]
    assert shade[1] == colour[1] == 0


def test_stripes_and_texture_that_the_photo_has_not_are_found():
    wall = torch.linspace(-0.5, 0.5, ENCODER_SIZE).expand(2, 3, ENCODER_SIZE, ENCODER_SIZE)
    rows, columns = torch.arange(ENCODER_SIZE)[:, None], torch.arange(ENCODER_SIZE)
    blinds = wall + 0.1 * (rows % 8 < 4)
    bricks = wall + 0.1 * ((rows // 4 + columns // 4) % 2)
    assert excess_texture(wall, wall) == 0
    assert excess_texture(blinds, blinds.roll(4, 2)) < 1e-6  # the same stripes, elsewhere
    assert excess_texture(wall, blinds) < 1e-6
    assert excess_texture(blinds, wall) > 1e-3
    assert excess_texture(blinds.transpose(2, 3), wall) > 1e-3
    assert excess_texture(bricks, wall) > 5e-4


def test_face_net_gives_the_same_as_onnxruntime(nets):
    import onnxruntime

    picture = torch.rand(1, 3, 256, 256) * 2 - 1
    embedding = load_face_net(nets / FACE_NET_FILE).embed(picture)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1))
    face = torch.nn.functional.interpolate(
        picture.flip(1)[:, :, 30:226, 30:226], size=112, mode="bilinear", antialias=True
    )
    session = onnxruntime.InferenceSession(nets / FACE_NET_FILE)
    (wanted,) = session.run(None, {"input": ((face + 1) * 127.5 - 127).numpy() / 128})
    torch.testing.assert_close(embedding, torch.nn.functional.normalize(torch.tensor(wanted)), atol=1e-4, rtol=1e-3)


def test_another_net_is_refused_as_face_net(nets, tmp_path):
    model = onnx.load(nets / FACE_NET_FILE)
    model.graph.node.pop(0)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match="not the face net"):
        load_face_net(tmp_path / "other.onnx")


def test_inverse_flow_undoes_a_warp():
    torch.manual_seed(0)
    small = torch.rand(2, 3, 16, 16)
    picture = torch.nn.functional.interpolate(small, size=256, mode="bicubic")
    flow = random_flow(2, CPU)
    warped = warp(picture, upscale_flow(flow, 2))
    restored = warp(warped, upscale_flow(inverse_flow(flow), 2))
    inside = (slice(None), slice(None), slice(60, 196), slice(60, 196))
    before, after = ((x[inside] - picture[inside]).abs().mean() for x in (warped, restored))
    assert after < 0.15 * before


def test_random_edits_differ_and_leave_most_late_rows_alone():
    torch.manual_seed(0)
    vectors = torch.zeros(2, 16, 512)
    vectors[:, :8] = torch.randn(2, 8, 512)
    named = NamedOffsets(vectors, torch.ones(2), vectors[0])
    offsets = random_offsets(Generator(), named, 200)
    assert offsets.shape == (200, 16, 512)
    assert offsets[:, :8].any((1, 2)).all()
    assert 0.1 < offsets[:, 8:].any((1, 2)).float().mean() < 0.5


def test_some_faces_get_glasses():
    torch.manual_seed(0)
    none = torch.zeros(2, 16, 512)
    glasses = random_glasses(NamedOffsets(none, torch.ones(2), torch.ones(16, 512)), 400, 0.25)
    worn = glasses.amax((1, 2)) > 0
    assert 0.15 < worn.float().mean() < 0.35
    assert glasses[worn].min() >= 0.6 and glasses.max() <= 1.2


def test_tone_keeps_the_range_and_changes_every_picture():
    picture = torch.rand(4, 3, 8, 8) * 2 - 1
    toned = apply_tone(picture, random_tone(4, CPU))
    assert toned.abs().max() <= 1
    assert ((toned - picture).abs().mean((1, 2, 3)) > 0.01).all()


def test_real_faces_are_read_resized_and_mirrored(data):
    faces = RealFaces(data, "train", 64, CPU)
    assert faces.pictures.shape == (3, 3, 64, 64)
    drawn = faces.sample(64)
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    originals = faces.pictures.float() / 127.5 - 1
    mirrored = [min((d - o).abs().max() for o in originals) > 0.1 for d in drawn]
    assert 0.2 < sum(mirrored) / 64 < 0.8
    faces.add(torch.full((200, 3, 64, 64), 255, dtype=torch.uint8))
    assert (faces.sample(64) == 1).all((1, 2, 3)).float().mean() > 0.8


def test_companions_are_drawn_and_mirrored_with_their_photos(data):
    faces = RealFaces(data, "train", 64, CPU)
    drawn, same, grey = faces.sample_with(16, faces.pictures, faces.pictures[:, :1])
    assert torch.equal(drawn, same)
    assert torch.equal(drawn[:, :1], grey)


def test_hard_edits_are_drawn_more_often():
    torch.manual_seed(0)
    keys = ("yaw", "lips", "glasses")
    edits = {key: SimpleNamespace(vector=np.full((16, 512), i, np.float32)) for i, key in enumerate(keys)}
    named = NamedOffsets.of(edits, CPU)
    assert (named.glasses == keys.index("glasses")).all()
    drawn = named.draw(2, 500)
    assert drawn.shape == (2, 500)
    turned, lips = ((drawn == keys.index(key)).float().mean() for key in ("yaw", "lips"))
    assert turned > 5 * lips > 0


def test_a_patch_moves_as_what_is_behind_it():
    """A small one as a whole, by what counts alone; where nothing counts nothing moves."""
    side = 32
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    flow = torch.stack((3 + 2 * x - y, 1 + 0.5 * y))[None].repeat(3, 1, 1, 1)
    weight = torch.zeros(3, 1, side, side)
    weight[0, :, 4:28, 4:28] = 1
    weight[1, :, 10:13, 20:23] = 1
    flow[0, :, :4] = 100
    found = affine_motion(flow, weight)
    torch.testing.assert_close(found[0, :, 4:], flow[0, :, 4:], atol=0.1, rtol=0)
    torch.testing.assert_close(found[1, :, 11, 21], flow[1, :, 11, 21], atol=0.1, rtol=0)
    assert found[1].std((1, 2)).max() < 0.3 * flow[1].std((1, 2)).max()
    assert not found[2].any()


def test_bytes_come_back():
    picture = torch.linspace(-1.2, 1.2, 100)
    torch.testing.assert_close(from_bytes(to_bytes(picture)), picture.clamp(-1, 1), atol=0.004, rtol=0)


def test_rate():
    assert cosine_rate(1.0, 0.0, 0) == pytest.approx(0.01)
    assert cosine_rate(1.0, 0.0, 1000) == pytest.approx(1.0)
    assert cosine_rate(1.0, 1.0, 1000) == pytest.approx(0.02)


def test_saved_weights_come_back(tmp_path):
    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_weights(first, tmp_path / "new" / "x.safetensors")
    load_weights(second, tmp_path / "new" / "x.safetensors")
    torch.testing.assert_close(first.weight, second.weight, atol=1e-3, rtol=1e-3)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_starts_from_the_full_ones_weights(name, tmp_path):
    full, design = Streams(), Streams(DESIGNS[name])
    save_weights(full, tmp_path / "streams.safetensors")
    load_weights(design, tmp_path / "streams.safetensors", of_other_design=True)
    for key, value in design.state_dict().items():
        torch.testing.assert_close(value, full.state_dict()[key], atol=1e-3, rtol=1e-3)


def test_the_full_design_starts_from_one_without_alignment(tmp_path):
    before, full = Streams(DESIGNS["gradual_unaligned"]), Streams()
    save_weights(before, tmp_path / "streams.safetensors")
    load_weights(full, tmp_path / "streams.safetensors", of_other_design=True)
    for key, value in before.state_dict().items():
        torch.testing.assert_close(value, full.state_dict()[key], atol=1e-3, rtol=1e-3)


def test_a_design_does_not_start_from_a_smaller_one(tmp_path):
    save_weights(Streams(DESIGNS["one_shot"]), tmp_path / "streams.safetensors")
    with pytest.raises(CheckpointError, match="smaller design"):
        load_weights(Streams(), tmp_path / "streams.safetensors", of_other_design=True)


def test_grid_of_pictures(tmp_path):
    from gra_core.lab.training.report import save_grid

    save_grid(torch.zeros(3, 2, 3, 8, 16), tmp_path / "grid.jpg", columns=2)
    assert Image.open(tmp_path / "grid.jpg").size == (2 * 2 * 16, 2 * 8)
