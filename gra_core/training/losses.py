"""Frozen nets that training compares pictures with. Evaluation uses other nets (`gra_core.evaluation`)."""

from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from gra_core.errors import CheckpointError
from gra_core.models.face import FaceNet

VGG_SLICES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))


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


def load_face_net(path: Path) -> FaceNet:
    """The face recognition net of an ONNX file whose convolutions and PReLUs come in the order of `FaceNet`.

    Raises:
        CheckpointError: The graph is another one.
    """
    graph = onnx.load(str(path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    arrays = [values[name] for node in graph.node if node.op_type in ("Conv", "PRelu") for name in node.input[1:]]
    net = FaceNet()
    state = net.state_dict()
    if [array.size for array in arrays] != [tensor.numel() for tensor in state.values()]:
        raise CheckpointError(f"{path} is not the face net that is expected: its layers differ.")
    pairs = zip(state.items(), arrays, strict=True)
    net.load_state_dict({name: torch.tensor(array).view_as(tensor) for (name, tensor), array in pairs})
    return net


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"Cannot read the perceptual net {path}: {error}") from error
