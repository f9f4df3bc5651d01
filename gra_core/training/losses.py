"""What training compares pictures by, besides the distances of `gra_core.models.perceptual`."""

from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from gra_core.checkpoints import load_in_order
from gra_core.models.face import FaceNet

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
