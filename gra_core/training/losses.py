"""Frozen nets that training compares pictures with. Evaluation uses other nets (`gra_core.evaluation`)."""

from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from gra_core.errors import CheckpointError

VGG_SLICES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
FACE_CROP = (30, 226)
"""Rows and columns of a 256 px FFHQ crop that match the 112 px ArcFace template best."""


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS on VGG16 (Ghildyal & Liu, ECCV 2022, https://arxiv.org/abs/2207.13686).

    Weights: `stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth` of PyPI stlpips-pytorch 0.0.2 (BSD-2).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = _load_pickle(path)
        self.register_buffer("shift", state["scaling_layer.shift"].float())
        self.register_buffer("scale", state["scaling_layer.scale"].float())
        weights = [k.removesuffix(".weight") for k in state if k.startswith("net.") and k.endswith(".weight")]
        names = iter(weights)
        self.slices = nn.ModuleList()
        for channels in VGG_SLICES:
            convs = nn.ModuleList()
            for i in range(len(channels) - 1):
                conv = nn.Conv2d(channels[i], channels[i + 1], 3, 1, 1)
                name = next(names)
                conv.load_state_dict({k: state[f"{name}.{k}"].float() for k in ("weight", "bias")})
                convs.append(conv)
            self.slices.append(convs)
        for i in range(len(VGG_SLICES)):
            self.register_buffer(f"head{i}", state[f"lin{i}.model.1.weight"].float())
        blur = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", (blur[:, None] * blur / 16)[None, None])
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-normalised feature maps of the five slices; image (B, 3, H, W) in [-1, 1]."""
        x = (image - self.shift) / self.scale
        maps = []
        for i, convs in enumerate(self.slices):
            if i:
                x = F.pad(F.max_pool2d(x, 2, 1), (1, 1, 1, 1), mode="reflect")
                x = F.conv2d(x, self.blur.to(x.dtype).expand(x.shape[1], -1, -1, -1), stride=2, groups=x.shape[1])
            for conv in convs:
                x = F.relu(conv(x))
            maps.append(x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8))
        return maps

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance of each pair, (B,). Gradients reach `image` only."""
        with torch.no_grad():
            wanted = self.features(target)
        distances = [
            F.conv2d((mine - theirs).square(), getattr(self, f"head{i}").to(mine.dtype)).mean((1, 2, 3))
            for i, (mine, theirs) in enumerate(zip(self.features(image), wanted, strict=True))
        ]
        return torch.stack(distances).float().sum(0)


class FaceEmbedder(nn.Module):
    """MobileFaceNet identity embedding; the graph is read from `fr_feature.onnx` and run with torch operations.

    Weights: npm faceplugin-face-recognition-js 0.0.1 (MIT). Expects BGR at 112 px, (x - 127) / 128.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(str(path)).graph
        self.names = {}
        for i, tensor in enumerate(graph.initializer):
            self.names[tensor.name] = f"constant{i}"
            self.register_buffer(f"constant{i}", torch.tensor(numpy_helper.to_array(tensor)))
        self.steps = []
        for node in graph.node:
            attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
            self.steps.append((node.op_type, list(node.input), node.output[0], attributes))
        self.input = graph.input[0].name

    def forward(self, image: Tensor) -> Tensor:
        """Unit embeddings (B, 512) of FFHQ crops (B, 3, 256, 256) in [-1, 1]."""
        first, last = FACE_CROP
        face = F.interpolate(image.flip(1)[:, :, first:last, first:last], size=112, mode="bilinear", antialias=True)
        values = {self.input: (face * 127.5 + 0.5) / 128}
        out = face
        for kind, inputs, name, attributes in self.steps:
            args = [values[i] if i in values else getattr(self, self.names[i]) for i in inputs]
            if kind == "Conv":
                padding = attributes["pads"][:2]
                out = F.conv2d(*args, stride=attributes["strides"], padding=padding, groups=attributes["group"])
            elif kind == "PRelu":
                out = F.prelu(args[0], args[1].flatten().to(args[0].dtype))
            elif kind == "Add":
                out = args[0] + args[1]
            elif kind == "Reshape":
                out = args[0].flatten(1)
            else:
                raise CheckpointError(f"The face net has an operation that is not supported: {kind}.")
            values[name] = out
        return F.normalize(out.float(), dim=1)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"Cannot read the perceptual net {path}: {error}") from error
