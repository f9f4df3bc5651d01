"""The frozen generator: MobileStyleGAN trained on FFHQ at 1024 px, in plain PyTorch.

MobileStyleGAN (Belousov, 2021, https://arxiv.org/abs/2104.04767) is StyleGAN2-FFHQ distilled into separable
convolutions and wavelet upsampling. Its mapping network is StyleGAN2's own, so directions found in the W space
of StyleGAN2-FFHQ work here too. Demodulation is folded into the weights and the noise maps are constants: the
picture is a deterministic function of the code.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.models.maps import averaged, upscale

FEATURE_CHANNELS = MappingProxyType({8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64})
"""Channels of the blocks' outputs by side in pixels."""

MAPPING_LAYERS = 8
LEAKY_SLOPE = 0.2

ARTEFACT_CELL = 8
ARTEFACT_CELLS = 8
"""Neighbouring cells, along one side, of which the mean is the artefact."""
ARTEFACT_CONTRAST = 0.06
"""Highest contrast, in [-1, 1], that counts as an artefact, so that edges and strands leave no traces around them."""

StageHook = Callable[[int, Tensor], Tensor]
"""Called with (resolution, feature) after each block; what it returns enters the next block."""


class GeneratorInterface(Protocol):
    """A generator of 1024 px with a W+ space of 16 rows, as encoder, streams and editor need it.

    Attributes:
        channels: of `feature` by side in pixels: of all stages of the streams, and of 256 px.
        mean_w: (512,) mean of w over many z, the code of the average face.
    """

    channels: Mapping[int, int]
    mean_w: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        """W+ codes (B, 16, 512) -> picture (B, 3, 1024, 1024), RGB, about [-1, 1], not clamped."""

    def mapping(self, z: Tensor) -> Tensor:
        """Z (B, 512), standard normal, to w (B, 512)."""

    def feature(self, codes: Tensor, resolution: int, hook: StageHook | None = None) -> Tensor:
        """Feature of that side, (B, C, resolution, resolution); `hook` sees, and may replace, each on the way."""

    def picture_from(self, feature: Tensor, codes: Tensor) -> Tensor:
        """The picture whose `feature`, of any resolution, this is."""

    def render(self, codes: Tensor, hook: StageHook | None = None) -> Tensor:
        """The picture without the generator's upsampling artefacts; `hook` as in `feature`, up to the last one."""

    def small_picture(self, codes: Tensor) -> Tensor:
        """The picture at 256 px, (B, 3, 256, 256)."""


class _InverseHaar(torch.autograd.Function):
    """`inverse_haar` and its gradient, channels last: a third of the time that stacking takes with autograd."""

    @staticmethod
    def forward(_ctx: FunctionCtx, bands: Tensor) -> Tensor:
        batch, channels, height, width = bands.shape
        low, (y, x, xy) = _bands_of(bands.permute(0, 2, 3, 1))
        image = bands.new_empty((batch, height, 2, width, 2, channels // 4))
        for i, (left, right) in enumerate(((low + y, x + xy), (low - y, x - xy))):
            torch.add(left, right, out=image[:, :, i, :, 0])
            torch.sub(left, right, out=image[:, :, i, :, 1])
        return image.mul_(0.5).view(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)

    @staticmethod
    def backward(_ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        batch, channels, height, width = gradient.shape
        gradient = gradient.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
        (a, b), (c, d) = (row.unbind(3) for row in gradient.unbind(2))
        found = gradient.new_empty((batch, height // 2, width // 2, 4 * channels))
        low, (y, x, xy) = _bands_of(found)
        for first, second, upper, lower in ((low, y, a + b, c + d), (x, xy, a - b, c - d)):
            torch.add(upper, lower, out=first)
            torch.sub(upper, lower, out=second)
        return found.mul_(0.5).permute(0, 3, 1, 2)


def _bands_of(bands: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Views of the low band, (..., C), and of the three high ones of bands (..., 4C)."""
    low, high = bands.tensor_split([bands.shape[-1] // 4], dim=-1)
    return low, high.unflatten(-1, (-1, 3)).unbind(-1)


def inverse_haar(bands: Tensor) -> Tensor:
    """Inverse orthonormal Haar transform, (B, 4C, H, W) -> (B, C, 2H, 2W).

    The first C channels are the low band; then, for each channel, its bands high in y, high in x, high in both.
    """
    if not torch.compiler.is_compiling():
        return _InverseHaar.apply(bands)
    batch, channels, height, width = bands.shape
    low, high = bands.split([channels // 4, 3 * channels // 4], dim=1)
    y, x, xy = high.reshape(batch, channels // 4, 3, height, width).unbind(2)
    rows = [
        torch.stack((left + right, left - right), -1).flatten(3)
        for left, right in ((low + y, x + xy), (low - y, x - xy))
    ]
    return 0.5 * torch.stack(rows, 3).flatten(2, 3)


def haar(image: Tensor) -> Tensor:
    """Orthonormal Haar transform, the inverse of `inverse_haar`: (B, C, 2H, 2W) -> (B, 4C, H, W)."""
    batch, channels, height, width = image.shape
    corners = F.pixel_unshuffle(image, 2).reshape(batch, channels, 4, height // 2, width // 2)
    a, b, c, d = corners.unbind(2)
    high = torch.stack((a + b - c - d, a - b + c - d, a - b - c + d), 2).flatten(1, 2)
    return 0.5 * torch.cat((a + b + c + d, high), 1)


def without_artefacts(picture: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in about [-1, 1] without what repeats itself every 8 pixels.

    The generator doubles sizes by inverse Haar transforms, which leave artefacts with periods of 2, 4 and 8 pixels: of
    what is finer than a cell of 8 x 8 pixels, the part that neighbouring cells agree on. What photos show does not keep
    to such cells.
    """
    fixed = picture.detach()  # gradients pass by the artefacts: less to keep for them
    fine = (fixed - averaged(fixed, ARTEFACT_CELL)).clamp(-ARTEFACT_CONTRAST, ARTEFACT_CONTRAST)
    cells = F.pixel_unshuffle(fine, ARTEFACT_CELL)
    step = ARTEFACT_CELLS // 2
    agreed = F.avg_pool2d(cells, ARTEFACT_CELLS, step, ARTEFACT_CELLS // 4, count_include_pad=False)
    return picture - F.pixel_shuffle(upscale(agreed, step), ARTEFACT_CELL)


class MappingNetwork(nn.Module):
    """StyleGAN2's mapping network z -> w: 8 fully connected layers on the normalised z."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(STYLE_DIM, STYLE_DIM) for _ in range(MAPPING_LAYERS))

    def forward(self, z: Tensor) -> Tensor:
        """Map z (B, 512), standard normal, to w (B, 512)."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), LEAKY_SLOPE) * 2**0.5
        return w


def modulate(x: Tensor, weight: Tensor, scale: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Scale the input channels of a convolution by (B, C): of one picture in the small weight, else in the feature.

    `axis` of the weight counts the input channels.
    """
    if len(x) > 1:
        return x * scale[:, :, None, None], weight
    return x, weight * scale.view([-1 if i == axis else 1 for i in range(4)])


class StyledConv(nn.Module):
    """Modulated depthwise 3x3 and pointwise 1x1 convolution, fixed noise, bias, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, resolution: int) -> None:
        super().__init__()
        self.scale = (9 * in_channels) ** -0.5
        self.modulation = nn.Linear(STYLE_DIM, in_channels)
        self.depthwise = nn.Parameter(torch.empty(in_channels, 1, 3, 3))
        self.pointwise = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        self.noise = nn.Parameter(torch.empty(1, 1, resolution, resolution))
        self.bias = nn.Parameter(torch.empty(1, out_channels, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, in, H, W), (B, 512) -> (B, out, H, W)."""
        x, depthwise = modulate(x, self.depthwise, self.scale * self.modulation(style), axis=0)
        x = F.conv2d(x, depthwise, padding=1, groups=x.shape[1])
        x = F.conv2d(x, self.pointwise, self.bias.flatten())
        return F.leaky_relu_(x.add_(self.noise), LEAKY_SLOPE)


class SynthesisBlock(nn.Module):
    """Doubles the resolution by a modulated inverse Haar transform, then two styled convolutions."""

    def __init__(self, in_channels: int, out_channels: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.up_modulation = nn.Linear(STYLE_DIM, in_channels)
        self.conv1 = StyledConv(in_channels // 4, out_channels, resolution)
        self.conv2 = StyledConv(out_channels, out_channels, resolution)

    def forward(self, x: Tensor, style1: Tensor, style2: Tensor) -> Tensor:
        """(B, in, H, W), two styles (B, 512) -> (B, out, 2H, 2W)."""
        x = inverse_haar(x * self.up_modulation(style1)[:, :, None, None])
        return self.conv2(self.conv1(x, style1), style2)


class Generator(nn.Module):
    """MobileStyleGAN; a `GeneratorInterface`."""

    channels = FEATURE_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        channels = (FEATURE_CHANNELS[8], *FEATURE_CHANNELS.values())
        self.mapping = MappingNetwork()
        self.register_buffer("mean_w", torch.zeros(STYLE_DIM))
        self.const = nn.Parameter(torch.empty(1, channels[0], 4, 4))
        self.stem_modulation = nn.Linear(STYLE_DIM, channels[0])
        self.stem_weight = nn.Parameter(torch.empty(channels[0], channels[0], 3, 3))
        self.stem_noise = nn.Parameter(torch.empty(1, 1, 4, 4))
        self.stem_bias = nn.Parameter(torch.empty(1, channels[0], 1, 1))
        self.blocks = nn.ModuleList(
            SynthesisBlock(channels[i], out, side) for i, (side, out) in enumerate(FEATURE_CHANNELS.items())
        )
        self.image_modulation = nn.Linear(STYLE_DIM, channels[-1])
        self.image_weight = nn.Parameter(torch.empty(12, channels[-1], 1, 1))
        self.image_bias = nn.Parameter(torch.empty(1, 12, 1, 1))

    def feature(self, codes: Tensor, resolution: int, hook: StageHook | None = None) -> Tensor:
        """Feature map that leaves the block of `resolution` (8 to 512), (B, C, resolution, resolution), for W+ codes.

        `hook` sees, and may replace, the feature map that leaves each block.
        """
        if codes.shape[1:] != (NUM_STYLES, STYLE_DIM):
            raise ValueError(f"W+ codes have shape (B, {NUM_STYLES}, {STYLE_DIM}), not {tuple(codes.shape)}")
        x = self.const * ((9 * self.const.shape[1]) ** -0.5 * self.stem_modulation(codes[:, 0]))[:, :, None, None]
        x = F.conv2d(x, self.stem_weight, padding=1) + (self.stem_noise + self.stem_bias)
        x = F.leaky_relu(x, LEAKY_SLOPE)
        return self._grown(x, codes, resolution, hook)

    def _grown(self, x: Tensor, codes: Tensor, resolution: int, hook: StageHook | None = None) -> Tensor:
        """Feature map x, sent through the blocks up to `resolution` that it has not seen."""
        for i, block in enumerate(self.blocks):
            if x.shape[-1] < block.resolution <= resolution:
                x = block(x, codes[:, 1 + 2 * i], codes[:, 2 + 2 * i])
                if hook is not None:
                    x = hook(block.resolution, x)
        return x

    def bands_from(self, x: Tensor, codes: Tensor) -> Tensor:
        """Haar bands of the picture, (B, 12, 512, 512), whose `feature` at any resolution is x."""
        x = self._grown(x, codes, self.blocks[-1].resolution)
        x, weight = modulate(x, self.image_weight, x.shape[1] ** -0.5 * self.image_modulation(codes[:, -1]), axis=1)
        return F.conv2d(x, weight, self.image_bias.flatten())

    def synthesize_bands(self, codes: Tensor, hook: StageHook | None = None) -> Tensor:
        """Haar bands of the picture, (B, 12, 512, 512), for W+ codes (B, 16, 512); `hook` as in `feature`."""
        return self.bands_from(self.feature(codes, self.blocks[-1].resolution, hook), codes)

    def forward(self, codes: Tensor, hook: StageHook | None = None) -> Tensor:
        """Picture (B, 3, 1024, 1024), RGB, about [-1, 1] (not clamped), for W+ codes (B, 16, 512)."""
        return inverse_haar(self.synthesize_bands(codes, hook))

    def picture_from(self, x: Tensor, codes: Tensor) -> Tensor:
        """As `forward`; the picture whose `feature` at any resolution is x."""
        return inverse_haar(self.bands_from(x, codes))

    def render(self, codes: Tensor, hook: StageHook | None = None) -> Tensor:
        """As `forward`, without upsampling artefacts."""
        return without_artefacts(self(codes, hook))

    def half_picture(self, codes: Tensor) -> Tensor:
        """As `forward` at 512 px, (B, 3, 512, 512): half the low band, so nothing finer is made."""
        return 0.5 * self.synthesize_bands(codes)[:, :3]

    def small_picture(self, codes: Tensor) -> Tensor:
        """As `forward` at 256 px, (B, 3, 256, 256)."""
        return F.avg_pool2d(self.half_picture(codes), 2)


def broadcast_w(w: Tensor) -> Tensor:
    """One w for all layers: (B, 512) -> W+ (B, 16, 512)."""
    return w[:, None].expand(-1, NUM_STYLES, -1)
