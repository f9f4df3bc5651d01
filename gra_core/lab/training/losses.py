"""What training compares pictures by, besides the distances of `gra_core.lab.training.perceptual`."""

from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from gra_core.checkpoints import load_in_order
from gra_core.constants import ENCODER_SIZE
from gra_core.models.face import FaceNet

EYES = ((96.5, 122.0), (160.5, 122.0))
"""Where aligned faces have their eyes: x and y in pixels of 256."""
EYE_RADII = (10.0, 6.0)
EYE_STRIP = (slice(96, 148), slice(60, 197))
"""Rows and columns beyond which next to nothing counts."""
EYE_SHADE = 0.6
"""What light and dark count for beside the colour."""

STRIPE_WIDTHS = (16, 48)
"""Widths of the strips in which stripes are looked for, in pixels."""


def excess_texture(picture: Tensor, photo: Tensor) -> Tensor:
    """How much more stripes and texture a picture shows than the photo does in the same places; 0 for the photo.

    Perceptual nets hardly mind what codes far from the generator's own show on walls and in hair: stripes like blinds,
    then lattices like bricks. Less than the photo shows is for other losses to find.

    Args:
        picture: (B, 3, S, S) in [-1, 1].
        photo: the same shape; gradients reach `picture` only.
    """
    stripes = F.relu(_stripes(picture) - _stripes(photo)).mean()
    around = F.max_pool2d(_texture(photo), 3, 1, 1)
    return stripes + 0.5 * F.relu(_texture(picture) - around).mean()


def _stripes(picture: Tensor) -> Tensor:
    """Energy of the fine part of means along rows and columns, (B, N) for N strips of the picture."""
    energies = []
    for width in STRIPE_WIDTHS:
        for upright in (picture, picture.transpose(2, 3)):
            means = F.avg_pool2d(upright, (1, width))
            coarse = F.avg_pool2d(means, (9, 1), 1, (4, 0), count_include_pad=False)
            energies.append((means - coarse).square().mean((1, 2)))
    return torch.cat(energies, 1)


def _texture(picture: Tensor) -> Tensor:
    """Energy of what is finer than 7 pixels, (B, 1, 16, 16)."""
    fine = picture - F.avg_pool2d(picture, 7, 1, 3, count_include_pad=False)
    return F.avg_pool2d(fine.square().mean(1, keepdim=True), 16)


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


def load_face_net(path: Path) -> FaceNet:
    """The face recognition net of an ONNX file whose convolutions and PReLUs come in the order of `FaceNet`.

    Raises:
        CheckpointError: The graph is another one.
    """
    graph = onnx.load(str(path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    arrays = [values[name] for node in graph.node if node.op_type in ("Conv", "PRelu") for name in node.input[1:]]
    net = FaceNet()
    load_in_order(net, arrays, "face net", path)
    return net
