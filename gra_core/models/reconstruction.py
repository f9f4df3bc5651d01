"""The Reconstruction Stream: what the generator lacks of a photo, found stage by stage.

Each Gradual Residual Module compares the photo's features T_m with the generator's feature f_m, which the stages
before have already repaired, so the residuals are gradual (paper, section "Reconstruction Stream"). The residual F_m
depends on the photo only and is what the Editing Stream aligns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.models.generator import FEATURE_CHANNELS, GeneratorInterface
from gra_core.models.layers import (
    GATE_CHANNELS,
    RESIDUAL_CHANNELS,
    GateFusion,
    ResBlock,
    StreamsDesign,
    inverse_magnitude,
)

DETAIL_CHANNELS = {256: 64, 128: 96, 64: 128, 32: 160, 16: 160}
"""Channels of the photo's features T_m by side in pixels (256 px only feeds the next)."""

GRM_DEPTH = 2


@dataclass(frozen=True)
class SourceResiduals:
    """Residuals of a photo. All tensors have a leading batch dimension.

    Attributes:
        residuals: F_m of each stage, coarse to fine, (B, RESIDUAL_CHANNELS[m], m, m).
        image: the stream's picture, (B, 3, 1024, 1024).
    """

    residuals: tuple[Tensor, ...]
    image: Tensor


class DetailEncoder(nn.Module):
    """Hierarchical photo features T_m at 128, 64, 32 and 16 px from the photo at full size."""

    def __init__(self) -> None:
        super().__init__()
        sides = list(DETAIL_CHANNELS)
        channels = list(DETAIL_CHANNELS.values())
        self.stem = nn.Conv2d(3 * 16, channels[0], 3, 1, 1)
        self.stem_block = ResBlock(channels[0])
        self.downs = nn.ModuleList(nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1) for i in range(len(channels) - 1))
        self.blocks = nn.ModuleList(ResBlock(c) for c in channels[1:])
        self.sides = sides[1:]

    def forward(self, photo: Tensor) -> dict[int, Tensor]:
        """Photo (B, 3, 1024, 1024) in [-1, 1] -> {side: T (B, DETAIL_CHANNELS[side], side, side)}."""
        x = self.stem_block(self.stem(F.pixel_unshuffle(photo, 4)))
        maps = {}
        for side, down, block in zip(self.sides, self.downs, self.blocks, strict=True):
            x = block(down(F.gelu(x)))
            maps[side] = x
        return maps


class GradualResidualModule(nn.Module):
    """F_m = E_res(W_T * T_m, W_f * f_m): the residual of one stage, then Gate & Fusion into the feature."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        residual = RESIDUAL_CHANNELS[side]
        self.to_common_photo = nn.Conv2d(DETAIL_CHANNELS[side], residual, 3, 1, 1)
        self.to_common_feature = nn.Conv2d(channels, residual, 3, 1, 1)
        self.merge = nn.Conv2d(2 * residual, residual, 1)
        self.residual_encoder = nn.Sequential(*(ResBlock(residual) for _ in range(GRM_DEPTH)))
        self.fuse = GateFusion(channels, residual, GATE_CHANNELS[side])

    def forward(self, photo_feature: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """T_m and f_m, both m px wide -> residual F_m and the repaired feature."""
        common = (self.to_common_photo(photo_feature), self.to_common_feature(feature * inverse_magnitude(feature)))
        residual = self.residual_encoder(self.merge(torch.cat(common, 1)))
        return residual, self.fuse(feature, residual)


class ReconstructionStream(nn.Module):
    """Runs the frozen generator on the photo's code and repairs its features coarse to fine."""

    def __init__(self, design: StreamsDesign | None = None, channels: Mapping[int, int] = FEATURE_CHANNELS) -> None:
        """`channels`: of the generator's feature by side in pixels."""
        super().__init__()
        self.design = design or StreamsDesign()
        self.detail_encoder = DetailEncoder()
        self.modules_by_stage = nn.ModuleDict(
            {str(side): GradualResidualModule(side, channels[side]) for side in self.design.stages}
        )

    def forward(self, generator: GeneratorInterface, codes: Tensor, photo: Tensor) -> SourceResiduals:
        """Codes (B, 16, 512) and photo (B, 3, 1024, 1024) in [-1, 1] -> the residuals of the photo."""
        residuals, feature = self._repaired(generator, codes, photo)
        return SourceResiduals(residuals, generator.picture_from(feature, codes))

    def residuals(self, generator: GeneratorInterface, codes: Tensor, photo: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, without making the repaired picture, which only training looks at."""
        return self._repaired(generator, codes, photo)[0]

    def _repaired(
        self, generator: GeneratorInterface, codes: Tensor, photo: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """F_m of each stage, coarse to fine, and the repaired feature of the last."""
        photo_features = self.detail_encoder(photo)
        residuals = []

        def repair(side: int, feature: Tensor) -> Tensor:
            if side not in self.design.stages:
                return feature
            residual, repaired = self.modules_by_stage[str(side)](photo_features[side], feature)
            residuals.append(residual)
            return repaired

        feature = generator.feature(codes, self.design.stages[-1], repair)
        return tuple(residuals), feature
