"""Shift-tolerant perceptual distances, which training compares pictures with.

Evaluation uses another net (`gra_core.metrics.perceptual`).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.errors import CheckpointError

VGG_SLICES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels through the convolutions of each slice."""

ALEXNET_SLICES = ((3, 64, 11, 2), (64, 192, 5, 2), (192, 384, 3, 1), (384, 256, 3, 1), (256, 256, 3, 1))
"""The one convolution of each slice: channels in and out, kernel, padding."""


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS (Ghildyal & Liu, ECCV 2022, https://arxiv.org/abs/2207.13686), on VGG16 here.

    Weights: `stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth` of PyPI stlpips-pytorch 0.0.2 (BSD-2), see
    `load_published`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.slices = self._trunk()
        for i, convs in enumerate(self.slices):
            self.register_buffer(f"head{i}", torch.zeros(1, convs[-1].out_channels, 1, 1))
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
        return self.distance(image, wanted)

    def distance(self, image: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        """Distance of each image (B, 3, H, W) from another one's `features`, (B,)."""
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
            x = F.relu(conv(x) if i else self._halved_conv(x, conv))
            yield x

    def _halved_conv(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """`_halve` of the first convolution, at half the work: one kernel for both, on pictures of half the size.

        Around the picture both find zeros, where the published net mirrors what the convolution found: the outermost
        places differ.
        """
        outputs, inputs, side, _ = conv.weight.shape
        weight = F.conv_transpose2d(conv.weight.reshape(-1, 1, side, side), self.blur.to(conv.weight.dtype))
        weight = weight.reshape(outputs, inputs, side + 2, side + 2)
        weight, x = F.pixel_unshuffle(F.pad(weight, (0, 1, 0, 1)), 2), F.pixel_unshuffle(x, 2)
        return F.conv2d(x, weight, conv.bias, padding=(conv.padding[0] + 2) // 2)


def load_published(net: ShiftTolerantLPIPS, path: Path) -> ShiftTolerantLPIPS:
    """Load a .pth file of stlpips-pytorch into its net.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"Cannot read the perceptual net {path}: {error}") from error
    names = (k.removesuffix(".weight") for k in state if k.startswith("net.") and k.endswith(".weight"))
    for conv, name in zip((conv for convs in net.slices for conv in convs), names, strict=True):
        conv.load_state_dict({k: state[f"{name}.{k}"] for k in ("weight", "bias")})
    net.shift.copy_(state["scaling_layer.shift"].view_as(net.shift))
    net.scale.copy_(state["scaling_layer.scale"].view_as(net.scale))
    for i in range(len(net.slices)):
        getattr(net, f"head{i}").copy_(state[f"lin{i}.model.1.weight"])
    return net
