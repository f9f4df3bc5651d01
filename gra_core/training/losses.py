"""Frozen nets that training compares pictures with. Evaluation uses other nets (`gra_core.evaluation`)."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from gra_core.checkpoints import load_in_order
from gra_core.errors import CheckpointError
from gra_core.models.face import FaceNet

VGG_SLICES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels through the convolutions of each slice."""

STRIPE_WIDTHS = (16, 48)
"""Widths of the strips in which stripes are looked for, in pixels of 256."""

ALEXNET_SLICES = ((3, 64, 11, 2), (64, 192, 5, 2), (192, 384, 3, 1), (384, 256, 3, 1), (256, 256, 3, 1))
"""The one convolution of each slice: channels in and out, kernel, padding."""


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS (Ghildyal & Liu, ECCV 2022, https://arxiv.org/abs/2207.13686), on VGG16 here.

    Weights: `stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth` of PyPI stlpips-pytorch 0.0.2 (BSD-2).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = _load_pickle(path)
        self.register_buffer("shift", state["scaling_layer.shift"].float())
        self.register_buffer("scale", state["scaling_layer.scale"].float())
        self.slices = self._trunk()
        names = (k.removesuffix(".weight") for k in state if k.startswith("net.") and k.endswith(".weight"))
        for conv, name in zip((conv for convs in self.slices for conv in convs), names, strict=True):
            conv.load_state_dict({k: state[f"{name}.{k}"].float() for k in ("weight", "bias")})
        for i in range(len(self.slices)):
            self.register_buffer(f"head{i}", state[f"lin{i}.model.1.weight"].float())
        blur = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", (blur[:, None] * blur / 16)[None, None])
        self.requires_grad_(False)

    def _trunk(self) -> nn.ModuleList:
        """The untrained convolutions of the five slices."""
        return nn.ModuleList(
            nn.ModuleList(nn.Conv2d(inputs, outputs, 3, 1, 1) for inputs, outputs in pairwise(channels))
            for channels in VGG_SLICES
        )

    def _halve(self, x: Tensor, padding: int) -> Tensor:
        """Blur, then every second position."""
        x = F.pad(x, (padding,) * 4, mode="reflect")
        return F.conv2d(x, self.blur.to(x.dtype).expand(x.shape[1], -1, -1, -1), stride=2, groups=x.shape[1])

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """Feature maps of the five slices; x is scaled."""
        for i, convs in enumerate(self.slices):
            if i:
                x = self._halve(F.max_pool2d(x, 2, 1), 1)
            for conv in convs:
                x = F.relu(conv(x))
            yield x

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-normalised feature maps of the five slices; image (B, 3, H, W) in [-1, 1]."""
        maps = self._maps((image - self.shift) / self.scale)
        return [x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8) for x in maps]

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance of each pair, (B,). Gradients reach `image` only."""
        with torch.no_grad():
            wanted = self.features(target)
        distances = [
            F.conv2d((mine - theirs).square(), getattr(self, f"head{i}").to(mine.dtype)).mean((1, 2, 3))
            for i, (mine, theirs) in enumerate(zip(self.features(image), wanted, strict=True))
        ]
        return torch.stack(distances).float().sum(0)


class ShiftTolerantAlexNet(ShiftTolerantLPIPS):
    """ST-LPIPS on AlexNet; weights: `alex_shift_tolerant.pth` of the same package.

    What it sees differs from what VGG16 sees: mostly coarse contrast and colour.
    """

    def _trunk(self) -> nn.ModuleList:
        return nn.ModuleList(
            nn.ModuleList([nn.Conv2d(inputs, outputs, kernel, 1, padding)])
            for inputs, outputs, kernel, padding in ALEXNET_SLICES
        )

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        for i, (conv,) in enumerate(self.slices):
            if i in (1, 2):
                x = self._halve(F.max_pool2d(x, 3, 1), 2)
            x = conv(x)
            x = F.relu(x if i else self._halve(x, 2))
            yield x


def excess_texture(picture: Tensor, photo: Tensor) -> Tensor:
    """How much more stripes and texture a picture shows than the photo does in the same places; 0 for the photo.

    Perceptual nets hardly mind what codes far from the generator's own show on walls and in hair: stripes like blinds,
    then lattices like bricks. Less than the photo shows is for other losses to find.

    Args:
        picture: (B, 3, 256, 256) in [-1, 1].
        photo: the same shape; gradients reach `picture` only.
    """
    stripes = F.relu(_stripes(picture) - _stripes(photo)).mean()
    around = F.max_pool2d(_texture(photo), 3, 1, 1)
    return stripes + 0.5 * F.relu(_texture(picture) - around).mean()


def _stripes(picture: Tensor) -> Tensor:
    """Energy of the fine part of means along rows and columns, (B, N) for N strips of the picture."""
    energies = []
    for width in STRIPE_WIDTHS:
        for upright in (picture, picture.transpose(2, 3)):
            means = F.avg_pool2d(upright, (1, width))
            coarse = F.avg_pool2d(means, (9, 1), 1, (4, 0), count_include_pad=False)
            energies.append((means - coarse).square().mean((1, 2)))
    return torch.cat(energies, 1)


def _texture(picture: Tensor) -> Tensor:
    """Energy of what is finer than 7 pixels, (B, 1, 16, 16)."""
    fine = picture - F.avg_pool2d(picture, 7, 1, 3, count_include_pad=False)
    return F.avg_pool2d(fine.square().mean(1, keepdim=True), 16)


def load_face_net(path: Path) -> FaceNet:
    """The face recognition net of an ONNX file whose convolutions and PReLUs come in the order of `FaceNet`.

    Raises:
        CheckpointError: The graph is another one.
    """
    graph = onnx.load(str(path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    arrays = [values[name] for node in graph.node if node.op_type in ("Conv", "PRelu") for name in node.input[1:]]
    net = FaceNet()
    load_in_order(net, arrays, "face net", path)
    return net


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"Cannot read the perceptual net {path}: {error}") from error
