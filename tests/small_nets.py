"""Narrow nets and their files: what training does is the same with eight channels as with hundreds.

Run as a program under `torchrun`, it trains streams for a step (`train_streams`).
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from gra_core import checkpoints
from gra_core.constants import CHECKPOINT_DIR, PACKAGE_DIR
from gra_core.directions.registry import (
    GLASSES_PROBE,
    load_directions,
    load_glasses_probe,
    save_directions,
)
from gra_core.images import tensor_to_image
from gra_core.lab.training import encoder as encoder_training
from gra_core.lab.training.loop import FACE_NET_FILE, Job
from gra_core.lab.training.perceptual import ALEXNET_FILE, VGG_FILE
from gra_core.lab.training.prepared import PreparedSet
from gra_core.lab.training.recipe import Recipe
from gra_core.lab.training.runtime import Process, end_process, save_weights, start_process
from gra_core.lab.training.streams import StreamTraining
from gra_core.models import editing, encoder, face, generator, layers, reconstruction
from gra_core.models.face import FaceNet
from gra_core.models.generator import Generator, broadcast_w
from gra_core.models.streams import Streams

CHANNELS = {8: 16, 16: 16, 32: 16, 64: 16, 128: 16, 256: 8, 512: 8}
"""Of the generator's feature by side."""
EDITS = ("smile", "glasses")

VGG_SLICES = ((3, 4, 4), (4, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8))
"""Channels through the convolutions of each slice."""
ALEXNET_SLICES = ((3, 4, 11), (4, 8, 5), (8, 8, 3), (8, 8, 3), (8, 8, 3))
"""Channels in and out and kernel of each slice's convolution."""


def shrink(set_attribute: Callable[[object, str, object], None] = setattr) -> None:
    """Make all nets that are built from now on narrow."""
    set_attribute(generator, "FEATURE_CHANNELS", CHANNELS)
    set_attribute(Generator, "channels", CHANNELS)
    set_attribute(Streams.__init__, "__defaults__", (None, CHANNELS))
    for module in (editing, reconstruction):
        for name in ("RESIDUAL_CHANNELS", "GATE_CHANNELS"):
            set_attribute(module, name, dict.fromkeys(layers.STAGES, 8))
    set_attribute(reconstruction, "DETAIL_CHANNELS", dict.fromkeys(reconstruction.DETAIL_CHANNELS, 8))
    for name in ("KEY_CHANNELS", "REFINER_CHANNELS"):
        set_attribute(editing, name, dict.fromkeys(layers.STAGES, 8))
    set_attribute(encoder, "STAGE_CHANNELS", (16, 16, 16, 16))
    set_attribute(encoder, "STAGE_DEPTHS", (1, 1, 1, 1))
    set_attribute(encoder, "QUERY_DIM", 20)
    set_attribute(encoder, "QUERY_LAYERS", 1)
    set_attribute(encoder_training, "LATENT_SAMPLES", 2000)
    set_attribute(face, "BOTTLENECKS", ((64, 16, 16, 2), (16, 16, 16, 2), (16, 16, 128, 2)))
    set_attribute(face, "REPEATS", ((1, 16), (1, 16), (1, 16)))


@torch.no_grad()
def draw_material(folder: Path, real: Generator) -> None:
    """Aligned photos with an index, and clips without one, of persons whom the real generator makes; 512 px."""
    torch.manual_seed(0)
    edits = load_directions()
    codes = broadcast_w(torch.lerp(real.mean_w, real.mapping(torch.randn(4, 512)), 0.6))

    def draw(code: torch.Tensor, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensor_to_image(real.half_picture(code[None])).save(path)

    rows = ["file,identity,source"]
    for i, code in enumerate(codes):
        name = f"{'val' if i == 3 else 'train'}/{i}.png"
        draw(code, folder / "portraits" / name)
        rows.append(f"{name},{i},generated")
    (folder / "portraits" / "index.csv").write_text("\n".join(rows) + "\n")
    for i, key in enumerate(("yaw", "smile")):
        step = 0.3 * torch.from_numpy(np.array(edits[key].vector))
        for k in range(2):
            draw(codes[i] + k * step, folder / "films" / str(i) / f"{k}.png")


@torch.no_grad()
def write_parents(folder: Path, real: Generator) -> None:
    """A narrow generator that shows the real one's average face in grey, and the real person net and edits.

    To be called when nets are narrow.
    """
    torch.manual_seed(0)
    grey = real.half_picture(broadcast_w(real.mean_w[None])).mean(1, keepdim=True)
    small = Generator()
    for name, value in small.named_parameters():
        if not name.startswith("mapping"):
            modulates = "modulation" in name
            nn.init.ones_(value) if modulates and name.endswith("bias") else nn.init.normal_(value)
            value.mul_(0.03 if modulates and name.endswith("weight") else 1)
        if "noise" in name:
            value.mul_(0.1)
    small.mapping.load_state_dict(real.mapping.state_dict())
    small.mean_w.copy_(real.mean_w)
    last = small.blocks[-1].conv2
    last.pointwise.mul_(0.2)
    last.bias.zero_()
    last.noise.copy_(2 + grey)
    small.image_modulation.weight.mul_(0.1)
    small.image_weight.mul_(0.02)
    small.image_weight[:3] += 2 / CHANNELS[512] ** 0.5
    small.image_bias.zero_()
    small.image_bias[:, :3] = -4
    save_weights(small, folder / checkpoints.GENERATOR)
    (folder / checkpoints.PERSON).write_bytes((CHECKPOINT_DIR / checkpoints.PERSON).read_bytes())
    edits = load_directions()
    probe = {GLASSES_PROBE: load_glasses_probe()}
    save_directions(folder / checkpoints.DIRECTIONS, [edits[key] for key in EDITS], probe)


def write_perceptual(folder: Path) -> None:
    """Files of the published forms with random weights."""
    torch.manual_seed(0)
    convs = [[(inner, outer, 3) for inner, outer in pairwise(channels)] for channels in VGG_SLICES]
    for file, slices in ((VGG_FILE, convs), (ALEXNET_FILE, [[conv] for conv in ALEXNET_SLICES])):
        state = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
        layers_seen = count()
        for i, slice_convs in enumerate(slices):
            for inner, outer, kernel in slice_convs:
                name = f"net.slice{i + 1}.{next(layers_seen)}"
                state[f"{name}.weight"] = torch.randn(outer, inner, kernel, kernel) * (2 / (kernel**2 * inner)) ** 0.5
                state[f"{name}.bias"] = torch.zeros(outer)
            state[f"lin{i}.model.1.weight"] = torch.rand(1, slice_convs[-1][1], 1, 1)
        torch.save(state, folder / file)


def write_face_net(folder: Path) -> None:
    """A file of the published form with random weights."""
    torch.manual_seed(0)
    nodes, constants, names = [], [], (f"x{i}" for i in count())

    def constant(value: torch.Tensor) -> str:
        constants.append(numpy_helper.from_array(value.numpy(), next(names)))
        return constants[-1].name

    def add(layer: nn.Module, x: str) -> str:
        if isinstance(layer, nn.Sequential):
            start = x
            for inner in layer:
                x = add(inner, x)
            if not getattr(layer, "shortcut", False):
                return x
            node = helper.make_node("Add", [start, x], [next(names)])
        elif isinstance(layer, nn.Conv2d):
            names_of_constants = [constant(layer.weight), constant(layer.bias)]
            options = {"strides": layer.stride, "pads": 2 * layer.padding, "group": layer.groups}
            node = helper.make_node("Conv", [x, *names_of_constants], [next(names)], **options)
        else:
            slope = 0.25 + 0.1 * torch.rand(len(layer.weight), 1, 1)
            node = helper.make_node("PRelu", [x, constant(slope)], [next(names)])
        nodes.append(node)
        return node.output[0]

    net = FaceNet()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    x = "input"
    for layer in (net.trunk, net.pool, net.project):
        x = add(layer, x)
    shape = constant(torch.tensor([1, 512]))
    nodes.append(helper.make_node("Reshape", [x, shape], ["output"]))
    graph = helper.make_graph(
        nodes,
        "face",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 512])],
        constants,
    )
    onnx.save(helper.make_model(graph), folder / FACE_NET_FILE)


def write_nets(folder: Path) -> None:
    """The files that losses are made with; the face net is as wide as nets are by then."""
    write_perceptual(folder)
    write_face_net(folder)


def noise(path: Path, side: int = 64) -> None:
    """A picture of nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def job_for(material: Path, out: Path, name: str, process: Process, **changes: object) -> Job:
    """A stage of the smoke recipe as a job by itself, from scratch; `material`: data, nets, parents and an encoder."""
    recipe = Recipe.read(PACKAGE_DIR / "lab" / "training" / "recipes" / "smoke.toml")
    (stage,) = (stage for stage in recipe.stages if stage.name == name)
    stage = replace(stage, init="", editor="", variants=0, **changes)
    out.mkdir(parents=True, exist_ok=True)
    folders = PreparedSet(material / "data"), material / "parents", material / "nets"
    recipe, encoder_file = replace(recipe, compiler="none"), material / "encoder.safetensors"
    return Job(recipe, stage, 0, "key", out, *folders, process, encoder=encoder_file)


def train_streams(material: Path, out: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A step of two parts of pairs, with the adversary: weights before and after, which `out` gets.

    The step goes down the gradient itself, which tells small ones from those that are nothing but rounding.
    """
    process = start_process()
    training = StreamTraining(
        job_for(material, out, "streams", process, steps=1, batch=3, parts=2, rate=1e4, motion=False)
    )
    training.optimizer = torch.optim.SGD(training.module.parameters())
    training.adversary_optimizer = torch.optim.SGD(training.adversary.parameters(), lr=1.0)

    def weights() -> dict[str, Tensor]:
        nets = nn.ModuleDict({"module": training.module, "adversary": training.adversary})
        return {name: value.clone() for name, value in nets.named_parameters()}

    before = weights()
    training.run()
    if process.leads:
        torch.save((before, weights()), out / "weights.pt")
    return before, weights()


if __name__ == "__main__":
    shrink()
    train_streams(Path(sys.argv[1]), Path(sys.argv[2]))
    end_process()
