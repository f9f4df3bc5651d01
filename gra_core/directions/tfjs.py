"""Runs the few kinds of TensorFlow.js graph models that score faces, in torch.

A graph model is a JSON file (nodes in any order, weights manifest) beside one .bin file. Only the operations that
the scoring nets use are known.
"""

import base64
import json
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.errors import CheckpointError


class GraphModel:
    """A frozen TensorFlow.js graph model with one input and named nodes.

    Raises:
        CheckpointError: the model file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            model = json.loads(path.read_text())
            self._nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
            self._weights = _read_weights(path.parent, model["weightsManifest"])
        except (OSError, KeyError, ValueError) as error:
            raise CheckpointError(f"The scoring net {path} is missing or damaged: {error}") from error

    def to(self, device: torch.device) -> Self:
        """Move the weights."""
        self._weights = {name: value.to(device) for name, value in self._weights.items()}
        return self

    def run(self, x: Tensor, *names: str) -> list[Tensor]:
        """Values of the nodes `names` for the input x, (B, C, H, W); maps are (B, C, H, W), the rest (B, C)."""
        values: dict[str, Tensor] = {}
        return [self._value(name, x, values) for name in names]

    @torch.inference_mode()
    def __call__(self, x: Tensor, *names: str) -> list[np.ndarray]:
        """As `run`, for arrays."""
        return [value.numpy() for value in self.run(x, *names)]

    def _value(self, name: str, x: Tensor, values: dict[str, Tensor]) -> Tensor:
        if name not in values:
            node = self._nodes[name]
            if node["op"] == "Placeholder":
                values[name] = x
            elif node["op"] == "Const":
                values[name] = self._weights[name]
            else:
                inputs = [self._value(source.split(":")[0], x, values) for source in node["input"]]
                values[name] = _run(node, inputs)
        return values[name]


def _read_weights(folder: Path, manifest: list[dict]) -> dict[str, Tensor]:
    """The weights by name; 4-d ones as (out, in, H, W), 1-d float ones broadcast over maps where needed."""
    weights = {}
    for group in manifest:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", entry)["dtype"])
            count = int(np.prod(entry["shape"], dtype=int))
            value = np.frombuffer(data, stored, count, offset).reshape(entry["shape"]).astype(entry["dtype"])
            offset += count * stored.itemsize
            weights[entry["name"]] = torch.from_numpy(value)
    return weights


def _attribute(node: dict, name: str) -> list:
    values = node["attr"][name]["list"]
    return [int(i) for i in values["i"]] if "i" in values else [base64.b64decode(s).decode() for s in values["s"]]


def _pad(node: dict, x: Tensor, kernel: tuple[int, int], stride: int, value: float = 0.0) -> Tensor:
    """TensorFlow's SAME padding, which puts the odd pixel at the right and the bottom."""
    if base64.b64decode(node["attr"]["padding"]["s"]) == b"VALID":
        return x
    sides = []
    for size, k in zip(reversed(x.shape[2:]), reversed(kernel), strict=True):
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value)


def _convolve(node: dict, x: Tensor, weight: Tensor, *, depthwise: bool) -> Tensor:
    """Weight as TensorFlow keeps it: (H, W, in, out), or (H, W, in, 1) when depthwise."""
    stride = _attribute(node, "strides")[1]
    x = _pad(node, x, weight.shape[:2], stride)
    kernel = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
    return F.conv2d(x, kernel, stride=stride, groups=x.shape[1] if depthwise else 1)


def _channels(value: Tensor, like: Tensor) -> Tensor:
    """A per-channel constant, in the shape that broadcasts over `like`."""
    return value.reshape(1, -1, 1, 1) if like.ndim == 4 and value.numel() == like.shape[1] else value


def _run(node: dict, inputs: list[Tensor]) -> Tensor:  # noqa: PLR0911, PLR0912
    op = node["op"]
    if op in ("Add", "AddV2", "AddN", "Mul"):
        inputs = sorted(inputs, key=lambda value: -value.ndim)  # a constant may come first
    x, rest = inputs[0], inputs[1:]
    match op:
        case "Conv2D" | "_FusedConv2D" | "DepthwiseConv2dNative":
            return _fused(node, _convolve(node, x, rest[0], depthwise=op.startswith("Depthwise")), rest[1:])
        case "_FusedMatMul" | "MatMul":
            return _fused(node, x @ rest[0], rest[1:])
        case "MaxPool":
            kernel, stride = _attribute(node, "ksize")[1], _attribute(node, "strides")[1]
            return F.max_pool2d(_pad(node, x, (kernel, kernel), stride, -torch.inf), kernel, stride)
        case "AvgPool":
            return F.avg_pool2d(x, _attribute(node, "ksize")[1])
        case "ResizeBilinear":
            return F.interpolate(x, size=rest[0].tolist(), mode="bilinear", align_corners=False)
        case "Conv2DBackpropInput":  # inputs: size of the result, weight, map; only non-overlapping ones occur
            return F.conv_transpose2d(rest[1], rest[0].permute(3, 2, 0, 1), stride=_attribute(node, "strides")[1])
        case "Add" | "AddV2" | "AddN":
            return x + _channels(rest[0], x)
        case "Mul":
            return x * _channels(rest[0], x)
        case "Minimum":
            return torch.minimum(x, rest[0])
        case "Maximum":
            return torch.maximum(x, rest[0])
        case "Relu":
            return x.relu()
        case "Relu6":
            return F.relu6(x)
        case "Mean":
            return x.mean((2, 3))
        case "Sigmoid":
            return x.sigmoid()
        case "Softmax":
            return x.softmax(-1)
        case "Identity":
            return x
    raise CheckpointError(f"The scoring net uses the operation {op}, which is not known here.")


def _fused(node: dict, x: Tensor, constants: list[Tensor]) -> Tensor:
    operations = _attribute(node, "fused_ops") if "fused_ops" in node["attr"] else []
    for operation in operations:
        match operation:
            case "BiasAdd":
                x = x + _channels(constants[0], x)
            case "Relu":
                x = x.relu()
            case _:
                raise CheckpointError(f"The scoring net fuses {operation}, which is not known here.")
    return x
