"""The encoder's code of a photo, brought nearer to the photo by a few learned gradient steps.

An encoder trained on few photos is held back by what it has not seen. A gradient knows this very photo, but to follow
it as it is takes hundreds of steps, since the distance is steep along few directions. So a small net reads the
gradient and says where to go, as in learned optimisers (Andrychowicz et al. 2016, https://arxiv.org/abs/1606.04474).

Two fifths of what a gradient takes would go into the generator's last block, to pictures four times as large as those
that are compared: a small net stands in for it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from gra_core.constants import ENCODER_SIZE, NUM_STYLES, STYLE_DIM
from gra_core.models.encoder import Encoder, to_encoder_size
from gra_core.models.generator import BLOCK_CHANNELS, LEAKY_SLOPE, Generator, broadcast_w, modulate
from gra_core.models.perceptual import ShiftTolerantAlexNet

DIM = 128
LAYERS = 5
HEADS = 4

STEPS = 12
"""Steps per photo."""
FOUND = 0.5
"""Share of what the refiner finds that edits start from. All of it is nearest to the photo, but it was found for the
photo as it is: edited, it comes apart at mouths and outlines. Residuals make up for what is left out."""

PREVIEW_WIDTH = 32

LATENTS_SCALE = 0.25
"""Of the latents, to be about as large as gradients are."""

WEIGHTS = {"perceptual": 4.0, "mse": 1.0, "l1": 0.5, "identity": 0.4, "eyes": 0.8}
"""Of the distances whose gradient is read."""

EYES = ((96.5, 122.0), (160.5, 122.0))
"""Where aligned faces have their eyes: x and y in pixels of 256."""
EYE_RADII = (10.0, 6.0)
EYE_STRIP = (slice(96, 148), slice(60, 197))
"""Rows and columns beyond which next to nothing counts."""
EYE_SHADE = 0.6
"""What light and dark count for beside the colour."""


class ScaledConv(torch.autograd.Function):
    """A convolution of one picture whose input channels are scaled in the weight; the weight itself is not learned.

    Autograd would find the scale's gradient by way of the weight's, at a higher price than all else: the feature's own
    gradient tells it.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(1, in, H, W), (1, in), (out, in, K, K), (out,) -> (1, out, H, W)."""
        weight = weight * scale[:, :, None, None]
        ctx.save_for_backward(x, scale, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the feature and the scale."""
        x, scale, weight = ctx.saved_tensors
        found = F.conv_transpose2d(gradient, weight.to(gradient.dtype), padding=weight.shape[-1] // 2)
        return found, (x * found).sum((2, 3)) / scale, None, None


class PreviewConv(nn.Module):
    """Modulated convolution, noise and bias at 256 px."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(STYLE_DIM, in_channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.ones_(self.modulation.bias)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, side, side) / (side * in_channels**0.5))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise = nn.Parameter(torch.zeros(1, 1, ENCODER_SIZE, ENCODER_SIZE))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, in, 256, 256), (B, 512) -> (B, out, 256, 256)."""
        scale = self.modulation(style)
        if len(x) == 1 and not self.weight.requires_grad:
            return ScaledConv.apply(x, scale, self.weight, self.bias) + self.noise
        x, weight = modulate(x, self.weight, scale, axis=1)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2) + self.noise


class Preview(nn.Module):
    """The generator's picture at 256 px from its feature map of 256 px, in place of the last block."""

    def __init__(self) -> None:
        super().__init__()
        channels = BLOCK_CHANNELS[-2]
        self.mix = PreviewConv(channels, PREVIEW_WIDTH, 1)
        self.look = PreviewConv(PREVIEW_WIDTH, PREVIEW_WIDTH, 3)
        self.image = PreviewConv(PREVIEW_WIDTH, 3, 1)

    def forward(self, feature: Tensor, codes: Tensor) -> Tensor:
        """(B, 128, 256, 256), W+ codes (B, 16, 512) -> (B, 3, 256, 256), about [-1, 1]."""
        x = F.leaky_relu(self.mix(feature, codes[:, -3]), LEAKY_SLOPE)
        x = F.leaky_relu(self.look(x, codes[:, -2]), LEAKY_SLOPE)
        return self.image(x, codes[:, -1])


class Refiner(nn.Module):
    """One step: latents of a photo and the gradient of the distance from it -> change of the latents.

    Attributes:
        distance: the perceptual net, frozen.
        preview: what stands in for the generator's last block.
        scale: root mean square of each latent's gradient over photos, (16, 512).
    """

    def __init__(self) -> None:
        super().__init__()
        self.distance = ShiftTolerantAlexNet()
        self.preview = Preview()
        self.register_buffer("scale", torch.ones(NUM_STYLES, STYLE_DIM))
        self.read_gradient, self.read_latents = (
            nn.Parameter(STYLE_DIM**-0.5 * torch.randn(NUM_STYLES, STYLE_DIM, DIM)) for _ in range(2)
        )
        self.memory = nn.Linear(DIM, DIM, bias=False)
        nn.init.zeros_(self.memory.weight)
        self.rows = nn.Parameter(0.1 * torch.randn(NUM_STYLES, DIM))
        self.steps = nn.Parameter(torch.zeros(STEPS, DIM))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.out_norm = nn.LayerNorm(DIM)
        self.out_weight = nn.Parameter(torch.zeros(NUM_STYLES, DIM, STYLE_DIM))
        self.descent = nn.Parameter(torch.full((NUM_STYLES, STYLE_DIM), 0.005))

    def forward(self, gradient: Tensor, latents: Tensor, step: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Change of latents (B, 16, 512), and what the next step is to remember of this one, (B, 16, 128).

        Args:
            gradient: (B, 16, 512).
            latents: (B, 16, 512).
            step: how many came before, (B,).
            memory: of the step before; `nothing` before the first.
        """
        gradient = torch.asinh(gradient / self.scale)
        tokens = torch.einsum("brs,rsd->brd", gradient, self.read_gradient)
        tokens = tokens + torch.einsum("brs,rsd->brd", LATENTS_SCALE * latents, self.read_latents)
        tokens = tokens + self.rows + self.steps[step][:, None] + self.memory(memory)
        for layer in self.layers:
            tokens = layer(tokens)
        found = self.out_norm(tokens)
        return torch.einsum("brd,rds->brs", found, self.out_weight) - self.descent * gradient, found

    def nothing(self, count: int) -> Tensor:
        """Memory of photos (B) that no step was made for."""
        return self.rows.new_zeros(count, NUM_STYLES, DIM)


class CodeEstimator:
    """W+ codes of photos: the encoder's, then steps of the refiner.

    Attributes:
        average_face: the picture of the mean w, (1, 3, 256, 256).
        eyes: `eye_weights`.
        total_distance: the method of that name; training puts a compiled one in its place.
    """

    def __init__(self, generator: Generator, encoder: Encoder, refiner: Refiner) -> None:
        """Take the nets, all on one device."""
        self.generator, self.encoder, self.refiner = generator, encoder, refiner
        with torch.no_grad():
            self.average_face = average_face(generator)
            self.eyes = eye_weights(generator.mean_w.device)
        self.total_distance: Callable[..., tuple[Tensor, Tensor]] = self._total_distance

    def __call__(self, photo: Tensor) -> Tensor:
        """Codes (B, 16, 512) of aligned faces (B, 3, 256, 256) in [-1, 1]; no gradient reaches the photos."""
        return self.estimate(photo)[0]

    def estimate(self, photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As when called; the codes from which edits start, (B, 16, 512); the preview before the last step."""
        with torch.inference_mode(False), torch.no_grad():
            photo = photo.clone()  # one that was made in inference mode could not be differentiated
            first, wanted = self.latents(photo).float(), self.wanted(photo)
            latents = first
            memory = self.refiner.nothing(len(photo))
            for step in range(STEPS):
                steps = torch.full((len(photo),), step, device=photo.device)
                gradient, preview = self.gradient(latents, wanted)
                change, memory = self.refiner(gradient, latents, steps, memory)
                latents = latents + change.float()
            refined, unrefined = self.encoder.latent_space(latents), self.encoder.latent_space(first)
            return refined, torch.lerp(unrefined, refined, FOUND), preview

    def latents(self, photo: Tensor) -> Tensor:
        """The encoder's latents of photos, differentiable."""
        return self.encoder(photo, self.average_face.expand_as(photo))

    def wanted(self, photo: Tensor) -> tuple[Tensor, ...]:
        """What pictures are compared with: the photo, its identity, its perceptual features."""
        return photo, self.encoder.face.embed(photo), *self.refiner.distance.features(photo)

    def gradient(self, latents: Tensor, wanted: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Gradient of each photo's distance with respect to its latents (B, 16, 512), and their preview."""
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            distance, preview = self.total_distance(latents, *wanted)
            return torch.autograd.grad(distance, latents)[0].float(), preview.detach()

    def _total_distance(
        self, latents: Tensor, photo: Tensor, identity: Tensor, *features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum over photos of the distances between previews of latents and what is wanted; the previews."""
        codes = self.encoder.latent_space(latents)
        picture = self.refiner.preview(self.generator.feature(codes, ENCODER_SIZE), codes).float()
        difference = picture - photo
        terms = {
            "perceptual": self.refiner.distance.distance(picture, features).sum(),
            "mse": difference.square().mean((1, 2, 3)).sum(),
            "l1": difference.abs().mean((1, 2, 3)).sum(),
            "identity": -(self.encoder.face.embed(picture) * identity).sum(),
            "eyes": eye_difference(difference, self.eyes).sum(),
        }
        return sum(WEIGHTS[name] * value for name, value in terms.items()), picture


def eye_weights(device: torch.device) -> Tensor:
    """How much each pixel of an aligned face belongs to an eye, (1, 1, 256, 256); sums up to 1."""
    axis = torch.arange(ENCODER_SIZE, device=device) + 0.5
    along, across = EYE_RADII
    eyes = [torch.exp(-((axis - x) / along).square() - ((axis - y)[:, None] / across).square()) for x, y in EYES]
    return (sum(eyes) / sum(eye.sum() for eye in eyes))[None, None]


def eye_difference(difference: Tensor, weights: Tensor) -> Tensor:
    """How far apart eyes are in colour, and a little in shade, (B,): no other distance minds blue eyes for brown ones.

    Args:
        difference: of pictures, (B, 3, 256, 256).
        weights: `eye_weights`.
    """
    smooth = F.avg_pool2d(difference[..., *EYE_STRIP], 5, 1, 2)
    colour = smooth - smooth.mean(1, keepdim=True)
    return ((EYE_SHADE * smooth.square() + colour.abs()) * weights[..., *EYE_STRIP]).sum((1, 2, 3)) / 3


def average_face(generator: Generator) -> Tensor:
    """The picture of the mean w, (1, 3, 256, 256), beside which the encoder sees photos."""
    return small_picture(generator, broadcast_w(generator.mean_w[None])).clamp(-1, 1)


def half_picture(generator: Generator, feature: Tensor, codes: Tensor) -> Tensor:
    """The picture at 512 px of codes and their feature map: half the low band, so nothing finer is made."""
    return 0.5 * generator.bands_from(feature, codes)[:, :3]


def small_picture(generator: Generator, codes: Tensor) -> Tensor:
    """The picture of codes at 256 px."""
    return to_encoder_size(half_picture(generator, generator.feature(codes, ENCODER_SIZE), codes))
