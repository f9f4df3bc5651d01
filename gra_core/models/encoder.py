"""The frozen CNN encoder of the framework: aligned face -> W+ code.

A residual network reads the photo beside the picture that the current code gives, and 16 learned style queries
collect from its maps what has to change in their style vector. They also see what a face recognition net, trained on
far more people than we have, makes of both pictures. The current code is that of the average face: run again, beside
its own first reconstruction, as ReStyle does (Alaluf et al., ICCV 2021, https://arxiv.org/abs/2104.02699), it gains
little.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.constants import ENCODER_SIZE, NUM_STYLES, STYLE_DIM
from gra_core.models.face import EMBEDDING_DIM, MAP_SIDE, FaceNet
from gra_core.models.generator import GeneratorInterface, broadcast_w

STAGE_CHANNELS = (64, 128, 256, 384)
STAGE_DEPTHS = (3, 4, 6, 3)
QUERY_DIM = 320
QUERY_LAYERS = 4
QUERY_HEADS = 5

LATENT_BOUND = 5.0
"""Codes stay within so many standard deviations of the generator's own w in every direction: what is further off shows
stripes in walls and torn hair when the head turns, what is nearer is less like the person."""

UNBOUNDED = 1e4
"""A bound that no latent comes near."""

LARGEST_SHARE = 0.95
"""Of the bound: what `LatentSpace.inverse` takes what lies beyond for."""

MAPPING_SLOPE = 0.2
"""Negative slope of the mapping network's last leaky ReLU."""

LATENT_SAMPLES = 30_000


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class QueryLayer(nn.Module):
    """Self-attention among the style queries, cross-attention to the image tokens, feed-forward (pre-norm)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_qkv = nn.Linear(dim, 3 * dim)
        self.self_out = nn.Linear(dim, dim)
        self.cross_q = nn.Linear(dim, dim)
        self.cross_kv = nn.Linear(dim, 2 * dim)
        self.cross_out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B, Q, D), image tokens (B, N, D) -> (B, Q, D)."""
        queries = queries + self.self_out(self._attend(*self.self_qkv(self.norm1(queries)).chunk(3, 2)))
        k, v = self.cross_kv(tokens).chunk(2, 2)
        queries = queries + self.cross_out(self._attend(self.cross_q(self.norm2(queries)), k, v))
        return queries + self.feed_forward(self.norm3(queries))


class LatentSpace(nn.Module):
    """Maps the encoder's latents to codes.

    Unfitted, latents are offsets from `origin`. Fitted, they are coordinates of P_N space (Zhu et al. 2020,
    https://arxiv.org/abs/2012.09036), in which the generator's own w are standard normal: the last leaky ReLU of the
    mapping network is undone, then mean and principal axes are taken out. In some directions those w hardly vary,
    and a code that is off there, though near by distance, gives stripes and ragged hair.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(STYLE_DIM))
        self.register_buffer("axes", torch.eye(STYLE_DIM))
        self.register_buffer("slope", torch.tensor(1.0))
        self.register_buffer("bound", torch.tensor(UNBOUNDED))

    @torch.no_grad()
    def fit(self, w: Tensor) -> None:
        """Take mean and axes from w (N, 512) of the mapping network, N well above 512."""
        linear = F.leaky_relu(w.double(), 1 / MAPPING_SLOPE)
        variances, directions = torch.linalg.eigh(torch.cov(linear.T))
        self.origin.copy_(linear.mean(0))
        self.axes.copy_((directions * variances.clamp_min(0).sqrt()).T)
        self.slope.fill_(MAPPING_SLOPE)
        self.bound.fill_(LATENT_BOUND)

    @torch.no_grad()
    def inverse(self, codes: Tensor) -> Tensor:
        """Latents (..., 512) of codes (..., 512); those of codes out of bounds are as large as makes a difference."""
        codes = codes.double()
        linear = torch.where(codes < 0, codes / self.slope, codes) - self.origin
        bounded = (linear @ torch.linalg.inv(self.axes.double())) / self.bound
        return (self.bound * bounded.clamp(-LARGEST_SHARE, LARGEST_SHARE).atanh()).float()

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (..., 512) -> codes (..., 512); latents beyond the bound are drawn back to it, smoothly."""
        with torch.autocast(latents.device.type, enabled=False):
            bounded = self.bound * torch.tanh(latents.float() / self.bound)
            linear = self.origin + bounded @ self.axes
            return torch.where(linear < 0, self.slope * linear, linear)


class Encoder(nn.Module):
    """One correction step: photo and current reconstruction, both (B, 3, 256, 256) -> change of the latents."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(6, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        stages, channels = [], 64
        for out_channels, depth in zip(STAGE_CHANNELS, STAGE_DEPTHS, strict=True):
            blocks = [ResidualBlock(channels, out_channels, 2)]
            blocks += [ResidualBlock(out_channels, out_channels) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out_channels
        self.stages = nn.ModuleList(stages)
        self.face = FaceNet()
        self.latent_space = LatentSpace()
        token_maps = (
            (STAGE_CHANNELS[1], 32),
            (STAGE_CHANNELS[2], 16),
            (STAGE_CHANNELS[3], 8),
            (EMBEDDING_DIM, MAP_SIDE),
        )
        self.to_tokens = nn.ModuleList(nn.Conv2d(c, QUERY_DIM, 1) for c, _ in token_maps)
        self.positions = nn.ParameterList(nn.Parameter(0.02 * torch.randn(1, QUERY_DIM, s, s)) for _, s in token_maps)
        self.token_norm = nn.LayerNorm(QUERY_DIM)
        self.identity = nn.Linear(2 * EMBEDDING_DIM, QUERY_DIM)
        nn.init.zeros_(self.identity.weight)
        self.queries = nn.Parameter(0.5 * torch.randn(1, NUM_STYLES, QUERY_DIM))
        self.layers = nn.ModuleList(QueryLayer(QUERY_DIM, QUERY_HEADS) for _ in range(QUERY_LAYERS))
        self.out_norm = nn.LayerNorm(QUERY_DIM)
        self.out_weight = nn.Parameter(torch.zeros(NUM_STYLES, QUERY_DIM, STYLE_DIM))
        self.out_bias = nn.Parameter(torch.zeros(NUM_STYLES, STYLE_DIM))

    def forward(self, photo: Tensor, reconstruction: Tensor) -> Tensor:
        """Change of the latents (B, 16, 512) that moves the reconstruction towards the photo; pictures in [-1, 1].

        `latent_space` makes codes of latents.
        """
        if photo.shape[-2:] != (ENCODER_SIZE, ENCODER_SIZE):
            raise ValueError(f"the encoder sees {ENCODER_SIZE} px pictures, not {tuple(photo.shape[-2:])}")
        x = self.stem(torch.cat((photo, reconstruction), 1))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        embeddings, face_maps = self.face(torch.cat((photo, reconstruction)))
        maps.append(face_maps[: len(photo)])
        identities = torch.cat(embeddings.chunk(2), 1) * EMBEDDING_DIM**0.5
        tokens = [
            (project(m) + position).flatten(2).transpose(1, 2)
            for m, project, position in zip(maps[1:], self.to_tokens, self.positions, strict=True)
        ]
        tokens = self.token_norm(torch.cat(tokens, 1))
        queries = self.queries + self.identity(identities)[:, None]
        for layer in self.layers:
            queries = layer(queries, tokens)
        return torch.einsum("bqd,qdo->bqo", self.out_norm(queries), self.out_weight) + self.out_bias


class CodeEstimator:
    """W+ codes of photos: what the encoder finds beside the picture of the average face.

    Attributes:
        average_face: the picture of the mean w, (1, 3, 256, 256).
    """

    def __init__(self, generator: GeneratorInterface, encoder: Encoder) -> None:
        """Take the nets, both on one device."""
        self.encoder = encoder
        self.average_face = average_face(generator)

    def __call__(self, photo: Tensor) -> Tensor:
        """Codes (B, 16, 512) of aligned faces (B, 3, 256, 256) in [-1, 1], differentiable."""
        return self.encoder.latent_space(self.encoder(photo, self.average_face.expand_as(photo))).float()


@torch.no_grad()
def average_face(generator: GeneratorInterface) -> Tensor:
    """The picture of the mean w, (1, 3, 256, 256), beside which the encoder sees photos."""
    return generator.small_picture(broadcast_w(generator.mean_w[None])).clamp(-1, 1)


def to_encoder_size(image: Tensor) -> Tensor:
    """Antialiased resize of a square picture (B, 3, S, S), S a multiple of 256, to 256 px by averaging."""
    factor = image.shape[-1] // ENCODER_SIZE
    return F.avg_pool2d(image, factor) if factor > 1 else image
