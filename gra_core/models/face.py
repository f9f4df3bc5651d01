"""A small face recognition net, frozen: what makes a face this person's, known from far more people than we have.

The encoder looks at its features, and training compares identities with it. Identity is evaluated with another net
(`gra_core.metrics.identity`).
"""

import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING_DIM = 512
MAP_SIDE = 7

FACE_CROP = (30, 226)
"""Rows and columns of a 256 px FFHQ crop that match the 112 px ArcFace template best."""

BOTTLENECKS = ((64, 128, 64, 2), (64, 256, 128, 2), (128, 512, 128, 2))
"""In, inner and out channels and stride of the first bottleneck of each stage."""
REPEATS = ((4, 128), (6, 256), (2, 256))
"""How many bottlenecks with a shortcut follow it, and their inner channels."""


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, size // 2 if size < MAP_SIDE else 0, groups=groups)


class Bottleneck(nn.Sequential):
    """Widen, depthwise convolution, narrow; with a shortcut where the shapes allow."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int) -> None:
        super().__init__(
            _conv(in_channels, inner, 1),
            nn.PReLU(inner),
            _conv(inner, inner, 3, stride, inner),
            nn.PReLU(inner),
            _conv(inner, out_channels, 1),
        )
        self.shortcut = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        out = super().forward(x)
        return x + out if self.shortcut else out


class FaceNet(nn.Module):
    """MobileFaceNet (Chen et al. 2018, https://arxiv.org/abs/1804.07573), batch normalisation folded in.

    Weights: `fr_feature.onnx` of npm faceplugin-face-recognition-js 0.0.1 (MIT), see `training.losses.load_face_net`.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv(3, 64, 3, 2), nn.PReLU(64), _conv(64, 64, 3, groups=64), nn.PReLU(64)]
        for (in_channels, inner, out_channels, stride), (count, repeated) in zip(BOTTLENECKS, REPEATS, strict=True):
            blocks.append(Bottleneck(in_channels, inner, out_channels, stride))
            blocks += [Bottleneck(out_channels, repeated, out_channels, 1) for _ in range(count)]
        blocks += [_conv(128, EMBEDDING_DIM, 1), nn.PReLU(EMBEDDING_DIM)]
        self.trunk = nn.Sequential(*blocks)
        self.pool = _conv(EMBEDDING_DIM, EMBEDDING_DIM, MAP_SIDE, groups=EMBEDDING_DIM)
        self.project = _conv(EMBEDDING_DIM, EMBEDDING_DIM, 1)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """FFHQ crops (B, 3, 256, 256) in [-1, 1] -> unit embeddings (B, 512), last feature maps (B, 512, 7, 7)."""
        first, last = FACE_CROP
        face = image.flip(1)[:, :, first:last, first:last]  # The net expects BGR, (value - 127) / 128.
        face = F.interpolate(face, size=16 * MAP_SIDE, mode="bilinear", antialias=True)
        features = self.trunk((face * 127.5 + 0.5) / 128)
        embedding = self.project(self.pool(features)).flatten(1).float()
        return F.normalize(embedding, dim=1), features

    def embed(self, image: Tensor) -> Tensor:
        """Unit embeddings only."""
        return self(image)[0]
