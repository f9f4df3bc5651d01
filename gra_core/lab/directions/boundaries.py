"""Linear boundaries in W: ridge regression of a score on w, its quality on held-out halves, conditional projection.

InterFaceGAN (Shen et al., CVPR 2020, https://arxiv.org/abs/1907.10786), with ridge regression on the scores in place of
an SVM on the extremes, which uses every sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gra_core.lab.directions.scores import MEASURES

CLIP = {"yaw": (-35.0, 35.0), "glasses": (-4.0, 4.0), "lens_tint": (-0.5, 1.0)}
"""Range in which a measure says more than that the attribute is there; beyond it, it is cut off."""


@dataclass(frozen=True)
class Boundary:
    """A linear boundary in W.

    Attributes:
        normal: (512,) unit vector towards more of the attribute.
        accuracy: share of the extremes of the half not fitted to, the lowest and the highest tenth of its scores, that
            lie on the right side; mean of two halves.
        agreement: cosine between the normals of the two halves.
    """

    normal: np.ndarray
    accuracy: float
    agreement: float


def targets(measures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each boundary is fitted to: the mean of the attribute's standardised measures, (N,), standardised."""
    result = {}
    for name, parts in MEASURES.items():
        columns = [np.clip(measures[p], *CLIP[p]) if p in CLIP else measures[p] for p in parts]
        result[name] = _standard(sum(_standard(c) for c in columns))
    return result


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / max(float(x.std()), 1e-12)


def ridge_normal(w: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """Unit normal (512,) of the ridge regression of target (N,) on w (N, 512), penalty per sample and unit variance."""
    x = w - w.mean(0)
    x = x / x.std()
    gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1], dtype=x.dtype)
    return unit(np.linalg.solve(gram, x.T @ (target - target.mean()) / len(x)))


def fit_boundary(w: np.ndarray, target: np.ndarray, penalty: float, seed: int = 0) -> Boundary:
    """Boundary of a score over w (N, 512), with its quality measured on random halves."""
    halves = np.array_split(np.random.default_rng(seed).permutation(len(w)), 2)
    normals = [ridge_normal(w[half], target[half], penalty) for half in halves]
    accuracy = np.mean(
        [_accuracy(w[half] @ n, target[half]) for n, half in zip(normals, reversed(halves), strict=True)]
    )
    return Boundary(ridge_normal(w, target, penalty), float(accuracy), float(normals[0] @ normals[1]))


def _accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """Share of the lowest and the highest tenth by target that the boundary tells apart."""
    order = np.argsort(target)
    tenth = max(len(order) // 10, 1)
    low, high = prediction[order[:tenth]], prediction[order[-tenth:]]
    middle = np.median(np.concatenate([low, high]))
    return float((np.mean(low <= middle) + np.mean(high > middle)) / 2)


def condition(normal: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Unit vector nearest to `normal` (512,) that is orthogonal to all `others` (InterFaceGAN, section 3.2)."""
    if not others:
        return unit(normal)
    basis, _ = np.linalg.qr(np.stack(others, 1))
    return unit(normal - basis @ (basis.T @ normal))


def unit(x: np.ndarray) -> np.ndarray:
    """`x` at length 1."""
    return x / np.linalg.norm(x)
