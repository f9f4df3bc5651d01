"""Runs the few kinds of TensorFlow.js graph models that score faces, in onnxruntime.

A graph model is a JSON file (nodes in any order, weights manifest) beside one .bin file. It is translated to ONNX when
it is loaded. Only the operations that the scoring nets use are known.
"""

import base64
import importlib.util
import json
from pathlib import Path

import numpy as np

from gra_core.errors import CheckpointError

OPSET = 18
"""ONNX operator set that models are translated to."""

_SAME_NAME = {"Relu": "Relu", "Sigmoid": "Sigmoid", "Identity": "Identity", "Minimum": "Min", "Maximum": "Max"}
_SAME_NAME |= {"Add": "Add", "AddV2": "Add", "AddN": "Sum", "BiasAdd": "Add", "Mul": "Mul"}


def require(*modules: str) -> None:
    """Raise CheckpointError when one of the modules, which only fitting needs, is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CheckpointError(
            f"Scoring faces needs {' and '.join(missing)}. Install them: pip install -r requirements-dev.txt"
        )


class GraphModel:
    """A frozen TensorFlow.js graph model with one input; calling it gives the values of its nodes `outputs`.

    Args:
        path: the model's JSON file.
        outputs: names of nodes.
        threads: of onnxruntime; 0 means all cores.

    Raises:
        CheckpointError: the model file is missing, damaged, or uses an operation that is not known here.
    """

    def __init__(self, path: Path, *outputs: str, threads: int = 0) -> None:
        data = translate(path, *outputs)
        require("onnxruntime")
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """Values of the outputs for the input x, (B, C, H, W) float32; maps are (B, C, H, W), the rest (B, C)."""
        return self._session.run(None, {"x": x})


def translate(path: Path, *outputs: str) -> bytes:
    """A graph model as serialised ONNX with the input "x"; arguments and errors as of `GraphModel`."""
    try:
        model = json.loads(path.read_text())
        translation = _Translation(model["modelTopology"]["node"], _read_weights(path.parent, model))
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"The scoring net {path} is missing or damaged: {error}") from error
    return translation.to_onnx(outputs)


def _read_weights(folder: Path, model: dict) -> dict[str, np.ndarray]:
    weights = {}
    for group in model["weightsManifest"]:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", entry)["dtype"])
            count = int(np.prod(entry["shape"], dtype=int))
            value = np.frombuffer(data, stored, count, offset).reshape(entry["shape"]).astype(entry["dtype"])
            offset += count * stored.itemsize
            weights[entry["name"]] = value
    return weights


class _Translation:
    """A graph model on its way to ONNX. Maps change from (B, H, W, C) to (B, C, H, W), kernels likewise."""

    def __init__(self, nodes: list[dict], weights: dict[str, np.ndarray]) -> None:
        self.graph = {node["name"]: node for node in nodes}
        self.weights = weights
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}
        self.known: dict[str, tuple[str, bool]] = {}

    def to_onnx(self, outputs: tuple[str, ...]) -> bytes:
        """The serialised model with the input "x"."""
        require("onnx")
        from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

        self.helper = helper
        results = [helper.make_tensor_value_info(self.value(o)[0], TensorProto.FLOAT, None) for o in outputs]
        source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * 4)
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "scores", [source], results, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        return model.SerializeToString()

    def value(self, name: str) -> tuple[str, bool]:
        """Name of a node's value in the ONNX graph, and whether it is a map; its operation is added if need be."""
        name = name.split(":", maxsplit=1)[0]
        if name not in self.known:
            node = self.graph[name]
            self.known[name] = ("x", True) if node["op"] == "Placeholder" else self.operation(node)
        return self.known[name]

    def operation(self, node: dict) -> tuple[str, bool]:  # noqa: PLR0911
        """Add a node's operation; as `value`."""
        op, inputs = node["op"], node["input"]
        if op in {"Add", "AddV2", "Mul"}:
            inputs = sorted(inputs, key=self.weights.__contains__)  # a constant may come first
        if op == "Conv2DBackpropInput":
            return self.transposed(node), True
        source, is_map = self.value(inputs[0])
        if op in {"Conv2D", "_FusedConv2D", "DepthwiseConv2dNative"}:
            kernel = self.weights[inputs[1]]  # (H, W, in, out), or (H, W, in, 1) when depthwise
            depthwise = op.startswith("Depthwise")
            kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
            options = {"strides": _attribute(node, "strides")[1:3], "group": len(kernel) if depthwise else 1}
            value = self.add("Conv", source, self.constant(kernel), auto_pad=_padding(node), **options)
            return self.fused(node, value, is_map, inputs[2:])
        if op in {"_FusedMatMul", "MatMul"}:
            return self.fused(
                node, self.add("MatMul", source, self.constant(self.weights[inputs[1]])), False, inputs[2:]
            )
        if op == "MaxPool":
            size = {"kernel_shape": _attribute(node, "ksize")[1:3], "strides": _attribute(node, "strides")[1:3]}
            return self.add("MaxPool", source, auto_pad=_padding(node), **size), True
        if op == "AvgPool":
            return self.add("AveragePool", source, kernel_shape=_attribute(node, "ksize")[1:3]), True
        if op == "ResizeBilinear":
            size = np.int64([0, 0, *self.weights[inputs[1]]])
            shape = self.add("Where", self.constant(size == 0), self.add("Shape", source), self.constant(size))
            return self.add("Resize", source, "", "", shape, mode="linear"), True
        if op == "Relu6":
            return self.add("Clip", source, *(self.constant(np.float32(bound)) for bound in (0, 6))), is_map
        if op == "Mean":
            return self.add("ReduceMean", source, self.constant(np.int64([2, 3])), keepdims=0), False
        if op == "Softmax":
            return self.add("Softmax", source, axis=-1), is_map
        if op in _SAME_NAME:
            return self.add(_SAME_NAME[op], source, *(self.operand(i, is_map) for i in inputs[1:])), is_map
        raise CheckpointError(f"The scoring net uses the operation {op}, which is not known here.")

    def transposed(self, node: dict) -> str:
        """Add a transposed convolution whose kernel is as large as its stride; name of its value."""
        _, kernel, source = node["input"]  # the first is the size of the result
        kernel = self.weights[kernel].transpose(3, 2, 0, 1)  # from (H, W, out, in)
        strides = _attribute(node, "strides")[1:3]
        if list(kernel.shape[2:]) != strides:
            raise CheckpointError("The scoring net has an overlapping transposed convolution, which is not known here.")
        return self.add("ConvTranspose", self.value(source)[0], self.constant(kernel), strides=strides)

    def fused(self, node: dict, value: str, is_map: bool, constants: list[str]) -> tuple[str, bool]:
        """Add the operations that a node does after its own."""
        for operation in _attribute(node, "fused_ops") if "fused_ops" in node["attr"] else []:
            if operation not in {"BiasAdd", "Relu"}:
                raise CheckpointError(f"The scoring net fuses {operation}, which is not known here.")
            rest = [self.operand(constants[0], is_map)] if operation == "BiasAdd" else []
            value = self.add(_SAME_NAME[operation], value, *rest)
        return value, is_map

    def operand(self, name: str, is_map: bool) -> str:
        """Second input of an operation: another value, or a constant, one a channel where the first is a map."""
        name = name.split(":", maxsplit=1)[0]
        if name not in self.weights:
            return self.value(name)[0]
        constant = self.weights[name]
        return self.constant(constant.reshape(-1, 1, 1) if is_map and constant.size > 1 else constant)

    def constant(self, value: np.ndarray) -> str:
        """Name of a new constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Name of the value of a new operation."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(op, inputs, [name], **attributes))
        return name


def _attribute(node: dict, name: str) -> list:
    values = node["attr"][name]["list"]
    return [int(i) for i in values["i"]] if "i" in values else [base64.b64decode(s).decode() for s in values["s"]]


def _padding(node: dict) -> str:
    """TensorFlow's SAME puts the odd pixel at the right and the bottom."""
    return "VALID" if base64.b64decode(node["attr"]["padding"]["s"]) == b"VALID" else "SAME_UPPER"
