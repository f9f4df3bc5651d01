"""Make `checkpoints/generator.safetensors` from the `random-face` wheel on PyPI.

    pip download --no-deps random-face==2021.7.21.1
    python -m gra_core.lab.convert random_face-2021.7.21.1-py3-none-any.whl checkpoints/generator.safetensors

The wheel (Apache-2.0) carries MobileStyleGAN-FFHQ-1024 as OpenVINO IR v10: an XML graph whose constants point into
a .bin file. Only the constants are read. The graph lists them from the last layer to the first for the modulations
and in the order of execution for the rest.
"""

import argparse
import hashlib
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from gra_core.checkpoints import save_converted
from gra_core.errors import CheckpointError
from gra_core.models.generator import Generator

WHEEL_SHA256 = "e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5"
"""Of random_face-2021.7.21.1-py3-none-any.whl."""

MEAN_W_SAMPLES = 65536


def read_constants(xml: bytes, data: bytes) -> list[tuple[str, np.ndarray]]:
    """Name and float32 value of each float constant of an OpenVINO IR v10 graph, in file order."""
    constants = []
    for layer in ElementTree.fromstring(xml).iter("layer"):
        attributes = layer.find("data")
        if layer.get("type") != "Const" or attributes.get("element_type") != "f32":
            continue
        shape = [int(n) for n in attributes.get("shape").split(",") if n.strip()]
        offset, size = int(attributes.get("offset")), int(attributes.get("size"))
        constants.append((layer.get("name"), np.frombuffer(data, np.float32, size // 4, offset).reshape(shape)))
    return constants


def generator_state(wheel: Path) -> dict[str, Tensor]:
    """State dict of `Generator` (float32) from the wheel.

    Raises:
        CheckpointError: The file is not the expected wheel.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise CheckpointError(f"{wheel.name} is not random-face 2021.7.21.1 (SHA-256 {digest}). Download it again.")
    with zipfile.ZipFile(wheel) as archive:
        mapping, synthesis = (
            read_constants(archive.read(f"random_face/data/{net}.xml"), archive.read(f"random_face/data/{net}.bin"))
            for net in ("MappingNetwork", "SynthesisNetwork")
        )
    state = _mapping_state(mapping) | _synthesis_state(synthesis)
    generator = Generator()
    generator.load_state_dict(state, strict=False)
    with torch.no_grad():
        z = torch.randn(MEAN_W_SAMPLES, 512, generator=torch.Generator().manual_seed(0))
        state["mean_w"] = generator.mapping(z).mean(0)
    return state


def _mapping_state(constants: list[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
    weights = [value for _, value in constants if value.shape == (512, 512)]
    biases = [value for _, value in constants if value.shape == (512,)]
    state = {}
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        state[f"mapping.layers.{i}.weight"] = torch.tensor(weight)
        state[f"mapping.layers.{i}.bias"] = torch.tensor(bias)
    return state


def _synthesis_state(constants: list[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
    """The constants under the names of `Generator`, their values as published."""
    state = {}
    names = {
        "m.conv1.modulation": "stem_modulation",
        "m.conv1.conv.modulation": "stem_modulation",
        "m.layers.6.to_img.conv.modulation": "image_modulation",
    }
    for i in range(7):
        names[f"m.layers.{i}.up.modulation"] = f"blocks.{i}.up_modulation"
        for j in (1, 2):
            names[f"m.layers.{i}.conv{j}.conv.modulation"] = f"blocks.{i}.conv{j}.modulation"
    for name, value in constants:
        layer, _, part = name.rpartition(".")
        if layer in names:
            state[f"{names[layer]}.{part}"] = torch.tensor(value).squeeze(0) if part == "bias" else torch.tensor(value)

    # The large constants that remain stand in the order of execution: weight(s), noise, bias of each convolution.
    rest = [(name, torch.tensor(value)) for name, value in constants if value.size > 4 and "modulation" not in name]
    rest = [(name, value) for name, value in rest if value.shape[-2:] not in {(2, 1), (1, 2)}]
    queue = iter(rest)

    def take(pattern: str) -> Tensor:
        name, value = next(queue)
        if not re.fullmatch(pattern, name):
            raise CheckpointError(f"Unexpected constant {name} in the wheel's graph, where {pattern} should stand.")
        return value

    state["const"] = take(r"m\.input\.input")
    state["stem_weight"] = take(r"Mul_\d+_copy")
    state["stem_noise"] = take(r"\d+")
    state["stem_bias"] = take(r"m\.conv1\.bias")
    for i in range(7):
        for j in (1, 2):
            source, target = rf"m\.layers\.{i}\.conv{j}", f"blocks.{i}.conv{j}"
            state[f"{target}.depthwise"] = take(source + r"\.conv\.weight_dw").flatten(1, 2)
            state[f"{target}.pointwise"] = take(r"Mul_\d+_copy")
            state[f"{target}.noise"] = take(r"\d+")
            state[f"{target}.bias"] = take(source + r"\.bias")
    state["image_weight"] = take(r"m\.layers\.6\.to_img\.conv\.weight")
    state["image_bias"] = take(r"m\.layers\.6\.to_img\.bias")
    return state


def parser() -> argparse.ArgumentParser:
    """Options of the converter."""
    options = argparse.ArgumentParser(description="Convert the random-face wheel to generator.safetensors (fp16).")
    options.add_argument("wheel", type=Path)
    options.add_argument("output", type=Path)
    return options


def main() -> None:
    """Entry point of `python -m gra_core.lab.convert`."""
    args = parser().parse_args()
    save_converted(generator_state(args.wheel), args.output, "PyPI random-face 2021.7.21.1, Apache-2.0")


if __name__ == "__main__":
    main()
