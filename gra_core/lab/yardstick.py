"""The yardstick of speed: one forward pass of StyleGAN2 at 1024 px, which most editors pay per edit before all else.

Config F of Karras et al., CVPR 2020 (https://arxiv.org/abs/1912.04958), in plain PyTorch, with random weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLE = 512
CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
"""Channels by side in pixels."""


class ModulatedConv(nn.Module):
    """Convolution whose weight is modulated by a style, demodulated, and may upsample by 2."""

    def __init__(self, channels: int, out: int, kernel: int = 3, *, up: bool = False, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, channels, kernel, kernel) / (channels * kernel**2) ** 0.5)
        self.affine = nn.Linear(STYLE, channels)
        self.up, self.demodulate = up, demodulate
        taps = torch.tensor([1.0, 3, 3, 1])
        self.register_buffer("blur", (taps[:, None] * taps / taps.sum() ** 2 * 4)[None, None])

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(1, channels, S, S), (1, 512) -> (1, out, S or 2S, S or 2S)."""
        weight = self.weight[0] * (self.affine(style) + 1)[:, :, None, None]
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if not self.up:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return F.conv2d(F.pad(x, (1,) * 4), self.blur.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


class StyleGAN2(nn.Module):
    """W code (1, 512) -> picture (1, 3, 1024, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, CHANNELS[4], 4, 4))
        self.convs, self.to_rgb, before = nn.ModuleList(), nn.ModuleList(), CHANNELS[4]
        for side, channels in CHANNELS.items():
            if side > 4:
                self.convs.append(ModulatedConv(before, channels, up=True))
            self.convs.append(ModulatedConv(channels, channels))
            self.to_rgb.append(ModulatedConv(channels, 3, 1, demodulate=False))
            before = channels
        sides = [side for side in CHANNELS for _ in "12"][1:]  # one convolution at 4 px, two at each other size
        self.noises = nn.ParameterList(torch.randn(1, 1, side, side) for side in sides)

    @torch.inference_mode()
    def forward(self, style: Tensor) -> Tensor:
        """The picture, not clamped."""
        x, picture, convs, noises = self.const, None, iter(self.convs), iter(self.noises)
        for to_rgb in self.to_rgb:
            for _ in range(1 if picture is None else 2):
                x = F.leaky_relu(next(convs)(x, style) + 0.1 * next(noises), 0.2) * 2**0.5
            rgb = to_rgb(x, style)
            if picture is not None:
                rgb = rgb + F.interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)
            picture = rgb
        return picture
