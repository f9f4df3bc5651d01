"""An adversary that learns to tell edited pictures from photos, by looking at frozen perceptual features.

Regression losses are content with two half-transparent outlines where one should be; photos show none. Looking at the
features of a trained net, as Projected GANs do (Sauer et al., NeurIPS 2021, https://arxiv.org/abs/2111.01007), it
learns within minutes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTH = 64


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, WIDTH, 3, 1, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(WIDTH, 1, 3, 1, 1)),
    )


class Adversary(nn.Module):
    """Scores patches of pictures, high for photos, at four scales.

    Args:
        channels: of the slices of the perceptual net that are looked at, all but the finest.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(count) for count in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Feature maps of all five slices (`ShiftTolerantLPIPS.features`) -> scores (B, 1, h, w) of each scale."""
        return [head(feature * feature.shape[1] ** 0.5) for head, feature in zip(self.heads, features[1:], strict=True)]


def adversary_loss(photos: Sequence[Tensor], pictures: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the adversary from its scores of photos and of pictures."""
    return sum(
        F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in zip(photos, pictures, strict=True)
    ) / len(photos)


def realism_loss(pictures: list[Tensor]) -> Tensor:
    """What the pictures' maker minimises: minus the adversary's mean score."""
    return -torch.stack([fake.mean() for fake in pictures]).mean()
