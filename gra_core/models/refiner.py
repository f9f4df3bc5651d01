"""The encoder's code of a photo, brought nearer to the photo by a few learned gradient steps.

An encoder trained on few photos is held back by what it has not seen. A gradient knows this very photo, but to follow
it as it is takes hundreds of steps, since the distance is steep along few directions. So a small net reads the
gradient and says where to go, as in learned optimisers (Andrychowicz et al. 2016, https://arxiv.org/abs/1606.04474).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.models.encoder import Encoder, to_encoder_size
from gra_core.models.generator import Generator, broadcast_w
from gra_core.models.perceptual import ShiftTolerantAlexNet

DIM = 128
LAYERS = 5
HEADS = 4

STEPS = 5
"""Steps per photo."""

LATENTS_SCALE = 0.25
"""Of the latents, to be about as large as gradients are."""

WEIGHTS = {"perceptual": 4.0, "mse": 1.0, "l1": 0.5, "identity": 0.4}
"""Of the distances whose gradient is read."""


class Refiner(nn.Module):
    """One step: latents of a photo and the gradient of the distance from it -> change of the latents.

    Attributes:
        distance: the perceptual net, frozen.
        scale: root mean square of each latent's gradient over photos, (16, 512).
    """

    def __init__(self) -> None:
        super().__init__()
        self.distance = ShiftTolerantAlexNet()
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
        total_distance: the method of that name; training puts a compiled one in its place.
    """

    def __init__(self, generator: Generator, encoder: Encoder, refiner: Refiner) -> None:
        """Take the nets, all on one device."""
        self.generator, self.encoder, self.refiner = generator, encoder, refiner
        with torch.no_grad():
            self.average_face = average_face(generator)
        self.total_distance: Callable[..., Tensor] = self._total_distance

    def __call__(self, photo: Tensor) -> Tensor:
        """Codes (B, 16, 512) of aligned faces (B, 3, 256, 256) in [-1, 1]; no gradient reaches the photos."""
        with torch.inference_mode(False), torch.no_grad():
            photo = photo.clone()  # one that was made in inference mode could not be differentiated
            latents, wanted = self.latents(photo).float(), self.wanted(photo)
            memory = self.refiner.nothing(len(photo))
            for step in range(STEPS):
                steps = torch.full((len(photo),), step, device=photo.device)
                change, memory = self.refiner(self.gradient(latents, wanted), latents, steps, memory)
                latents = latents + change.float()
            return self.encoder.latent_space(latents)

    def latents(self, photo: Tensor) -> Tensor:
        """The encoder's latents of photos, differentiable."""
        return self.encoder(photo, self.average_face.expand_as(photo))

    def wanted(self, photo: Tensor) -> tuple[Tensor, ...]:
        """What pictures are compared with: the photo, its identity, its perceptual features."""
        return photo, self.encoder.face.embed(photo), *self.refiner.distance.features(photo)

    def gradient(self, latents: Tensor, wanted: tuple[Tensor, ...]) -> Tensor:
        """Gradient of each photo's distance with respect to its latents (B, 16, 512)."""
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            return torch.autograd.grad(self.total_distance(latents, *wanted), latents)[0].float()

    def _total_distance(self, latents: Tensor, photo: Tensor, identity: Tensor, *features: Tensor) -> Tensor:
        """Sum over photos of the distances between the pictures of latents and what is wanted."""
        picture = small_picture(self.generator, self.encoder.latent_space(latents)).float()
        difference = picture - photo
        terms = {
            "perceptual": self.refiner.distance.distance(picture, features).sum(),
            "mse": difference.square().mean((1, 2, 3)).sum(),
            "l1": difference.abs().mean((1, 2, 3)).sum(),
            "identity": -(self.encoder.face.embed(picture) * identity).sum(),
        }
        return sum(WEIGHTS[name] * value for name, value in terms.items())


def average_face(generator: Generator) -> Tensor:
    """The picture of the mean w, (1, 3, 256, 256), beside which the encoder sees photos."""
    return small_picture(generator, broadcast_w(generator.mean_w[None])).clamp(-1, 1)


def small_picture(generator: Generator, codes: Tensor) -> Tensor:
    """The picture of codes at 256 px: the low band is twice the picture at half size, so nothing finer is made."""
    return to_encoder_size(0.5 * generator.synthesize_bands(codes)[:, :3])
