"""How near one picture is to another, counted from their pixels.

All functions take pictures as (N, 3, H, W) RGB tensors in [-1, 1] of one size and return (N,) figures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

METRIC_SIZE = 256
"""Side, in pixels, at which reconstructions are compared unless a figure says otherwise."""

RESIZING = "bilinear, antialiased (torch.nn.functional.interpolate)"
"""The one way in which pictures are brought to the size of a comparison; reports repeat it."""

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, finest first: Wang et al. 2003, section 3.2."""

WINDOW = 11
WINDOW_SIGMA = 1.5


def resize(pictures: Tensor, side: int) -> Tensor:
    """Bring pictures (N, 3, H, W) to (N, 3, side, side); pictures of that size are returned as they are."""
    if pictures.shape[-2:] == (side, side):
        return pictures
    return F.interpolate(pictures, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def mse(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the values in [-1, 1]: 0 to 4."""
    _check_same_shape(first, second)
    return (first - second).square().mean(dim=(1, 2, 3))


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, for the peak-to-peak range 2; infinite for equal pictures."""
    return 10 * torch.log10(4 / mse(first, second))


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Multi-scale structural similarity over five scales, mean over the colour channels; 1 for equal pictures.

    Wang et al., "Multiscale structural similarity for image quality assessment", 2003. Contrast and structure
    count at each scale, luminance at the coarsest; negative values count as 0.
    Raises ValueError when a side is 160 px or less: the coarsest scale would be smaller than the window.
    """
    _check_same_shape(first, second)
    smallest = (WINDOW - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
    if min(first.shape[-2:]) <= smallest:
        raise ValueError(f"MS-SSIM needs pictures of more than {smallest} px a side, got {tuple(first.shape[-2:])}")
    a, b = (first + 1) / 2, (second + 1) / 2
    product = torch.ones_like(first[:, :, 0, 0])  # (N, 3)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale > 0:
            # Rounding up keeps an odd last row or column.
            a, b = F.avg_pool2d(a, 2, ceil_mode=True), F.avg_pool2d(b, 2, ceil_mode=True)
        similarity, contrast_structure = _similarity_maps(a, b)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        value = (similarity if last else contrast_structure).mean(dim=(2, 3))
        product = product * value.clamp_min(0) ** weight
    return product.mean(dim=1)


def _similarity_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor at each window, for values in [0, 1]."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a.square()) - mean_a.square()
    variance_b = _blur(b.square()) - mean_b.square()
    covariance = _blur(a * b) - mean_a * mean_b
    contrast_structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance * contrast_structure, contrast_structure


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean over each window that lies inside the picture: (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    place = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    kernel = torch.exp(-place.square() / (2 * WINDOW_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)  # (C, 1, 11)
    x = F.conv2d(x, kernel.unsqueeze(3), groups=x.shape[1])
    return F.conv2d(x, kernel.unsqueeze(2), groups=x.shape[1])


def _check_same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"pictures of one size are needed, got {tuple(first.shape)} and {tuple(second.shape)}")
