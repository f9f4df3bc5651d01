"""What offsets do to the scores of faces, and combinations of offsets that move one score alone.

A boundary says which way a score grows over the samples; what a row band of it does to a face, and what else moves with
it, has to be measured. `measure` does that. `combine` then finds, among all sums of measured offsets (atoms), the one
that moves its own score by one unit while the others and the code move least:

    minimise  sum_s weight_s^2 * (mean response_s ^2 + spread * variance over faces of response_s) + step * |offset|^2
    subject to   mean response_own = 1

It is InterFaceGAN's conditional manipulation with measured responses in place of the boundaries' angles.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from gra_core.constants import NUM_STYLES
from gra_core.directions.scores import attribute_scores

SPREAD = 0.5
"""How much leaks that differ from face to face matter beside the mean leak: it also keeps the noise in the responses,
which are measured on few faces, from being fitted."""

SHRINKAGE = 0.3
"""How far the covariance of effects between a few faces is drawn towards its diagonal."""

NONLINEARITY = 1.2
"""Variance of what a sum of atoms does over that of the sum of what they do."""

Scorer = Callable[[np.ndarray], dict[str, np.ndarray]]
Render = Callable[[np.ndarray], np.ndarray]


def codes_of(faces: np.ndarray) -> np.ndarray:
    """W+ codes (N, 16, 512) of codes w (N, 512); W+ codes as they are."""
    return np.repeat(faces[:, None], NUM_STYLES, axis=1) if faces.ndim == 2 else faces


def measure(render: Render, scorer: Scorer, faces: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
    """Scores (N, S) of faces (N, 512) or (N, 16, 512) after each of the offsets (K, 16, 512)."""
    codes = codes_of(faces)
    for offset in offsets:
        yield attribute_scores(scorer(render(codes + offset)))


def measure_slopes(render: Render, scorer: Scorer, faces: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Half the difference of the scores between + and - each offset, (K, N, S)."""
    after, before = (np.stack(list(measure(render, scorer, faces, sign * offsets))) for sign in (1, -1))
    return (after - before) / 2


@dataclass(frozen=True)
class Responses:
    """What K atoms do to S scores.

    Attributes:
        mean: (K, S) expected effect on a face.
        deviation: (K, N, S) differences of N measured faces from their mean.
        gram: (K, K) inner products of the atoms' offsets.
    """

    mean: np.ndarray
    deviation: np.ndarray
    gram: np.ndarray

    @classmethod
    def measured(cls, slopes: np.ndarray, atoms: np.ndarray) -> Self:
        """From slopes (K, N, S) of atoms (K, 16, 512)."""
        flat = atoms.reshape(len(atoms), -1)
        mean = slopes.mean(1)
        return cls(mean, slopes - mean[:, None], flat @ flat.T)

    def updated(self, amounts: np.ndarray, slopes: np.ndarray) -> "Responses":
        """With what E sums of the atoms did on other faces.

        The mean effects of the atoms are taken as Gaussian, with the covariance between faces over N; the sums' mean
        effects are noisy observations of them (a Kalman update, score by score).

        Args:
            amounts: (E, K) of the atoms in each sum.
            slopes: (E, M, S) what each sum did on M faces.
        """
        mean = self.mean.copy()
        faces, others = self.deviation.shape[1], slopes.shape[1]
        for s in range(mean.shape[1]):
            d = self.deviation[:, :, s]
            covariance = d @ d.T / (faces - 1)
            covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance))
            seen = amounts @ covariance @ amounts.T
            noise = seen * (1 / faces + NONLINEARITY / others) + 1e-6 * np.eye(len(amounts))
            surprise = slopes[:, :, s].mean(1) - amounts @ self.mean[:, s]
            mean[:, s] += covariance / faces @ amounts.T @ np.linalg.solve(noise, surprise)
        return replace(self, mean=mean)


def combine(
    responses: Responses,
    own: int,
    weights: np.ndarray,
    step: float,
    spread: float = SPREAD,
) -> np.ndarray:
    """Amounts of the atoms whose sum moves score `own` by 1 and all else least.

    Args:
        responses: of K atoms, in units of each score in which a leak matters alike.
        own: number of the score to move.
        weights: (S,) how much a leak into each score matters; 0 for those that may move. That of `own` is ignored.
        step: how much length matters, per squared unit of W.
        spread: how much the differences between faces matter, beside the mean.

    Returns:
        (K,) amounts.
    """
    square = weights**2
    square[own] = 0
    matrix = (responses.mean * square) @ responses.mean.T + 1e-9 * np.eye(len(responses.mean))
    deviation = responses.deviation
    matrix += spread * np.einsum("kns,s,lns->kl", deviation, square, deviation) / deviation.shape[1]
    effect = responses.mean[:, own]
    amounts = np.linalg.solve(matrix + step * responses.gram, effect)
    return amounts / (amounts @ effect)
