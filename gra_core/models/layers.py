"""Design and layers that the Reconstruction Stream and the Editing Stream share."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (16, 32, 64, 128)
"""Sides, in pixels, of the generator features that are repaired, coarse to fine."""

RESIDUAL_CHANNELS = {16: 128, 32: 128, 64: 128, 128: 96}
"""Channels of the residual F_m of each stage. Fewer than the generator's: what a residual may carry is limited."""

GATE_CHANNELS = {16: 96, 32: 96, 64: 96, 128: 64}
"""Width of Gate & Fusion at each stage."""


@dataclass(frozen=True)
class StreamsDesign:
    """Which residuals are injected, and how they are brought to the edited layout.

    The default is the method; the others are what it is compared with.

    Attributes:
        stages: where, a part of `STAGES`, coarse to fine; one stage alone is one-shot injection.
        alignment: "selective" searches among the best keys, "dense" among all keys of the window, "none" leaves each
            residual where it was in the photo.
        pixels: whether what no stage could repair is added as pixels at the end.
    """

    stages: tuple[int, ...] = STAGES
    alignment: Literal["selective", "dense", "none"] = "selective"
    pixels: bool = True

    def to_json(self) -> str:
        """As text, for the metadata of a weights file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The design that `to_json` wrote."""
        values = json.loads(text)
        return cls(**(values | {"stages": tuple(values["stages"])}))


def inverse_magnitude(feature: Tensor) -> Tensor:
    """One over the root mean square of each position's feature vector; (B, C, H, W) -> (B, 1, H, W).

    Generator features grow by orders of magnitude from stage to stage; the nets see them at one scale.
    """
    return torch.rsqrt(feature.square().mean(1, keepdim=True) + 1e-6)


def project_at_unit_scale(conv: nn.Conv2d, feature: Tensor, inverse: Tensor) -> Tensor:
    """A 1x1 convolution of the feature at unit scale, scaled behind the convolution, where there is less to scale."""
    projected = F.conv2d(feature, conv.weight) * inverse
    return projected if conv.bias is None else projected + conv.bias[:, None, None]


class ResBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, without normalisation (the scale of a residual means something)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        nn.init.normal_(self.conv2.weight, std=0.01)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        return x + self.conv2(F.gelu(self.conv1(F.gelu(x))))


class GateFusion(nn.Module):
    """Gate & Fusion: adds the residual to a generator feature, each channel through a gate in (0, 1).

    What it looks at besides the residual (`context_channels`) decides where the residual still holds: the Editing
    Stream hands it the difference between edited and aligned source feature and the certainty of the match.
    """

    def __init__(self, channels: int, residual_channels: int, width: int, context_channels: int = 0) -> None:
        super().__init__()
        self.from_feature = nn.Conv2d(channels, width, 1)
        self.from_residual = nn.Conv2d(residual_channels, width, 1)
        self.from_context = nn.Conv2d(context_channels, width, 1) if context_channels else None
        self.spatial = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.gate = nn.Conv2d(width, channels, 1)
        self.residual = nn.Conv2d(residual_channels, channels, 1)
        self.fusion = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)
        nn.init.zeros_(self.fusion.weight)
        nn.init.zeros_(self.fusion.bias)

    def forward(self, feature: Tensor, residual: Tensor, context: Tensor | None = None) -> Tensor:
        """Feature (B, C, H, W), residual (B, R, H, W), context (B, K, H, W) -> repaired feature (B, C, H, W)."""
        inverse = inverse_magnitude(feature)
        scale = inverse.float().pow(-2).mean((2, 3), keepdim=True).sqrt()
        hidden = project_at_unit_scale(self.from_feature, feature, inverse) + self.from_residual(residual)
        if self.from_context is not None:
            hidden = hidden + self.from_context(context)
        hidden = F.gelu(self.mix(F.gelu(hidden + self.spatial(hidden))))
        change = self.residual(residual) + self.fusion(hidden)
        return torch.addcmul(feature, torch.sigmoid(self.gate(hidden)) * scale, change)
