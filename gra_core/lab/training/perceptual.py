"""Shift-tolerant perceptual distances, which training compares pictures with.

Evaluation uses another net (`gra_core.metrics.perceptual`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.errors import CheckpointError

VGG_FILE, ALEXNET_FILE = "vgg_shift_tolerant.pth", "alex_shift_tolerant.pth"
"""Of PyPI stlpips-pytorch 0.0.2 (BSD-2), folder `stlpips_pytorch/weights/vST0.0`."""

SLICES = {VGG_FILE: (2, 2, 3, 3, 3), ALEXNET_FILE: (1, 1, 1, 1, 1)}
"""How many convolutions each slice has."""


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS (Ghildyal & Liu, ECCV 2022, https://arxiv.org/abs/2207.13686), on VGG16 here.

    Args:
        slices: convolutions of each slice, from `load_published`.
    """

    def __init__(self, slices: Sequence[Sequence[nn.Conv2d]]) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.slices = nn.ModuleList(nn.ModuleList(convs) for convs in slices)
        for i, convs in enumerate(self.slices):
            self.register_buffer(f"head{i}", torch.zeros(1, convs[-1].out_channels, 1, 1))
        blur = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", (blur[:, None] * blur / 16)[None, None])
        self.requires_grad_(False)

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
    """ST-LPIPS on AlexNet, which sees mostly coarse contrast and colour."""

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


def load_published(path: Path) -> ShiftTolerantLPIPS:
    """The net of a .pth file of stlpips-pytorch, by the file's name.

    Raises:
        CheckpointError: The file cannot be read, or its layers are others.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        names = (k.removesuffix(".weight") for k in state if k.startswith("net.") and k.endswith(".weight"))
        slices = [[_published_conv(state, next(names)) for _ in range(count)] for count in SLICES[path.name]]
        net = (ShiftTolerantAlexNet if path.name == ALEXNET_FILE else ShiftTolerantLPIPS)(slices)
        net.shift.copy_(state["scaling_layer.shift"].view_as(net.shift))
        net.scale.copy_(state["scaling_layer.scale"].view_as(net.scale))
        for i in range(len(net.slices)):
            getattr(net, f"head{i}").copy_(state[f"lin{i}.model.1.weight"])
    except (OSError, RuntimeError, KeyError, StopIteration) as error:
        raise CheckpointError(f"Cannot read the perceptual net {path}: {error}") from error
    return net


def _published_conv(state: dict[str, Tensor], name: str) -> nn.Conv2d:
    """A convolution with its weights; of AlexNet, whose first one has a stride of 1 here."""
    weight, bias = (state[f"{name}.{part}"] for part in ("weight", "bias"))
    outputs, inputs, kernel, _ = weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, 1, 2 if kernel == 11 else kernel // 2)
    conv.load_state_dict({"weight": weight, "bias": bias})
    return conv
