"""LPIPS with the AlexNet trunk: the perceptual distance that papers on GAN inversion report.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018
(https://arxiv.org/abs/1801.03924). Same result as ``lpips.LPIPS(net="alex", version="0.1")`` of
https://github.com/richzhang/PerceptualSimilarity, without needing torchvision.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.errors import CheckpointError

WEIGHTS_VARIABLE = "GRA_LPIPS_WEIGHTS"
"""Environment variable that names a weights file; without it the weights are downloaded once."""

TRUNK_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
HEADS_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth"
HEADS_FILE = "lpips_alex_v0.1-df73285e.pth"
"""Name in torch.hub's cache. Its last part is the start of the file's SHA-256, which torch.hub checks."""

TRUNK_LAYERS = (0, 3, 6, 8, 10)
"""Places of the five convolutions in torchvision's ``alexnet().features``."""


class LPIPS(nn.Module):
    """Distance between two pictures: 0 for the same picture, about 0.7 for unrelated ones.

    A new object has random weights; `load_lpips` returns one with the published weights.
    """

    def __init__(self) -> None:
        """Build the network with random weights, fixed and in evaluation mode."""
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
                nn.Conv2d(64, 192, kernel_size=5, padding=2),
                nn.Conv2d(192, 384, kernel_size=3, padding=1),
                nn.Conv2d(384, 256, kernel_size=3, padding=1),
                nn.Conv2d(256, 256, kernel_size=3, padding=1),
            ]
        )
        self.heads = nn.ModuleList(
            [nn.Conv2d(convolution.out_channels, 1, kernel_size=1, bias=False) for convolution in self.convolutions]
        )
        # ImageNet's mean and standard deviation, moved from [0, 1] to [-1, 1], to the three digits that LPIPS uses.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Feature maps after each of the five ReLUs, each pixel's vector scaled to length 1.

        `pictures`: (N, 3, H, W) RGB in [-1, 1], H and W at least 35 px.
        """
        x = (pictures - self.shift) / self.scale
        maps = []
        for index, convolution in enumerate(self.convolutions):
            if index in (1, 2):
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            x = F.relu(convolution(x))
            maps.append(_unit_length(x))
        return maps

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance of each pair; shape (N,).

        `first`, `second`: (N, 3, H, W) RGB in [-1, 1] of one size, at least 35 px a side. Differentiable in both.
        Raises ValueError when the shapes differ.
        """
        if first.shape != second.shape:
            raise ValueError(f"pictures of one size are needed, got {tuple(first.shape)} and {tuple(second.shape)}")
        distance = first.new_zeros(first.shape[0])
        for a, b, head in zip(self.features(first), self.features(second), self.heads, strict=True):
            distance = distance + head((a - b).square()).mean(dim=(1, 2, 3))
        return distance


def load_lpips(weights: str | Path | None = None, device: str | torch.device = "cpu") -> LPIPS:
    """LPIPS with the published weights, version 0.1.

    They come from the file `weights`, else from the file that the environment variable GRA_LPIPS_WEIGHTS names,
    else from the two public addresses above (about 233 MB, kept in torch.hub's cache). A file holds the
    state dict of ``lpips.LPIPS(net="alex")``, saved with ``torch.save``.

    Raises CheckpointError when the file is missing, damaged or of another kind, or the download fails.
    """
    path = weights or os.environ.get(WEIGHTS_VARIABLE)
    state = _read_weights(Path(path)) if path else _download_weights()
    origin = str(path) if path else TRUNK_URL
    model = LPIPS()
    try:
        model.load_state_dict(_own_names(state))
    except (KeyError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{origin} does not hold the LPIPS-AlexNet weights, version 0.1.") from error
    return model.to(device)


def _unit_length(x: Tensor) -> Tensor:
    # The lower bound changes no value (0 stays 0), but it keeps the gradient of the root at 0 finite.
    length = x.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
    return x / (length + 1e-10)


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename from the state dict of ``lpips.LPIPS(net="alex")`` to that of `LPIPS`."""
    own = {}
    for index, layer in enumerate(TRUNK_LAYERS):
        for part in ("weight", "bias"):
            own[f"convolutions.{index}.{part}"] = state[f"net.slice{index + 1}.{layer}.{part}"]
        own[f"heads.{index}.weight"] = state[f"lin{index}.model.1.weight"]
    return own


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"There is no LPIPS weights file {path} (set {WEIGHTS_VARIABLE} to one that exists).")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"The LPIPS weights file {path} cannot be read: it is damaged or of another kind."
        ) from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} does not hold the LPIPS-AlexNet weights, version 0.1.")
    return state


def _download_weights() -> dict[str, Tensor]:
    """Trunk and heads, merged under the names of ``lpips.LPIPS(net="alex")``."""
    options = {"map_location": "cpu", "check_hash": True, "weights_only": True}
    try:
        trunk = torch.hub.load_state_dict_from_url(TRUNK_URL, **options)
        heads = torch.hub.load_state_dict_from_url(HEADS_URL, file_name=HEADS_FILE, **options)
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            "The LPIPS weights could not be downloaded: connect to the internet, "
            f"or set {WEIGHTS_VARIABLE} to a weights file."
        ) from error
    return _merge(trunk, heads)


def _merge(trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merged = dict(heads)
    for index, layer in enumerate(TRUNK_LAYERS):
        for part in ("weight", "bias"):
            merged[f"net.slice{index + 1}.{layer}.{part}"] = trunk[f"features.{layer}.{part}"]
    return merged
