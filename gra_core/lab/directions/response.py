"""What offsets do to the scores and to the identity of faces, and sums of offsets that move one score alone.

A boundary says which way a score grows over the samples; what a row band of it does to a face, and what else moves with
it, has to be measured (`measuring`). `combine` then finds, among all sums of measured offsets (basis directions), the
one that moves its own score by one unit while the others, the person and the code move least:

    minimise  sum_s weight_s^2 * (mean response_s ^2 + spread * variance over faces of response_s)
              + identity * mean over faces |change of the face descriptor|^2 + step * |offset|^2 + near
    subject to   mean response_own = 1

Each term is a quadratic form in the amounts. It is InterFaceGAN's conditional manipulation with measured responses in
place of the boundaries' angles, and with what a face net sees of the person as one more thing to hold.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from gra_core.constants import NUM_STYLES

SPREAD = 0.25
"""How much entanglements that differ from face to face matter beside the mean entanglement: it also keeps the noise in
the responses, which are measured on few faces, from being fitted."""

SHRINKAGE = 0.3
"""How far the covariance of effects between a few faces is drawn towards its diagonal."""

NONLINEARITY = 1.2
"""Variance of what a sum of basis directions does over that of the sum of what they do."""

EVEN_SHARE, EVEN_NEAR, EVEN_ROUNDS = 0.2, 0.8, 15
"""Entanglement, as a share of what is compared with, and share of the largest entanglement, above which a score's
weight is raised; and how many times that is done."""


SATURATION = 0.8
"""Identity distance that far edits tend to, about that of two people. With x what small edits' changes add up to, a
distance of SATURATION * tanh(x / SATURATION) fits what was measured along sliders within 0.05."""


def identity_distance(change: np.ndarray | float) -> np.ndarray | float:
    """Identity distance of an edit from what the changes of small edits add up to."""
    return SATURATION * np.tanh(np.asarray(change) / SATURATION)


def identity_change(distance: np.ndarray | float) -> np.ndarray | float:
    """What small edits would have to add up to for an identity distance: the inverse of `identity_distance`."""
    return SATURATION * np.arctanh(np.clip(np.asarray(distance) / SATURATION, 0, 0.95))


def codes_of(faces: np.ndarray) -> np.ndarray:
    """W+ codes (N, 16, 512) of codes w (N, 512); W+ codes as they are."""
    return np.repeat(faces[:, None], NUM_STYLES, axis=1) if faces.ndim == 2 else faces


@dataclass(frozen=True)
class Responses:
    """What K basis directions do to S scores.

    Attributes:
        mean: (K, S) expected effect on a face.
        deviation: (K, N, S) differences of N measured faces from their mean.
        gram: (K, K) inner products of the basis directions' offsets.
        identity: (K, K) inner products of the basis directions' effects on the face descriptor, mean over faces.
        kinds: (N,) which kind of faces each is of; entanglements are held to the bound on each kind.
    """

    mean: np.ndarray
    deviation: np.ndarray
    gram: np.ndarray
    identity: np.ndarray
    kinds: np.ndarray

    @classmethod
    def measured(
        cls, slopes: np.ndarray, basis: np.ndarray, descriptors: np.ndarray, kinds: np.ndarray | None = None
    ) -> Self:
        """From slopes (K, N, S) of basis directions (K, 16, 512), and of descriptors (K, M, 128) of all or some of the
        faces."""
        flat = basis.reshape(len(basis), -1)
        seen = descriptors.reshape(len(basis), -1).astype(np.float64)
        mean = slopes.mean(1)
        kinds = np.zeros(slopes.shape[1], int) if kinds is None else kinds
        identity = seen @ seen.T / max(descriptors.shape[1], 1)
        return cls(mean, slopes - mean[:, None], flat @ flat.T, identity, kinds)

    def updated(self, amounts: np.ndarray, slopes: np.ndarray) -> "Responses":
        """With what E sums of the basis directions did on other faces.

        The mean effects of the basis directions are taken as Gaussian, with the covariance between faces over N; the
        sums' mean effects are noisy observations of them (a Kalman update, score by score).

        Args:
            amounts: (E, K) of the basis directions in each sum.
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

    @cached_property
    def entanglements(self) -> np.ndarray:
        """For each score the quadratic form (S, K, K) of its mean effect squared and, by `SPREAD`, its variance."""
        mean, deviation = self.mean.T, self.deviation.transpose(2, 0, 1)
        return mean[:, :, None] * mean[:, None] + SPREAD / deviation.shape[2] * deviation @ deviation.transpose(0, 2, 1)

    def change(self, amounts: np.ndarray) -> float:
        """Root mean square change of the face descriptor by a sum (K,), if effects add up; see `identity_distance`."""
        return float(np.sqrt(max(amounts @ self.identity @ amounts, 0.0)))

    def largest(self, amounts: np.ndarray) -> np.ndarray:
        """Size (S,) of a sum's mean effect on each score, on the kind of faces where it is largest."""
        deviation = np.tensordot(amounts, self.deviation, 1)
        means = [deviation[self.kinds == kind].mean(0) for kind in np.unique(self.kinds)]
        return np.abs(np.stack(means) + amounts @ self.mean).max(0)


def combine(
    responses: Responses,
    own: int,
    weights: np.ndarray,
    step: float,
    identity: float = 0.0,
    near: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Amounts of the basis directions whose sum moves score `own` by 1 and all else least.

    Args:
        responses: of K basis directions, in units of each score in which an entanglement matters alike.
        own: number of the score to move.
        weights: (S,) how much an entanglement into each score matters; 0 for those that may move. That of `own` is
            ignored.
        step: how much length matters, per squared unit of W.
        identity: how much a change of the person matters, per squared distance of face descriptors.
        near: (K, K) further quadratic form to hold down.

    Returns:
        (K,) amounts.
    """
    held = np.array(weights, np.float64)
    held[own] = 0
    matrix = np.tensordot(held**2, responses.entanglements, 1) + 1e-9 * np.eye(len(responses.mean))
    matrix += step * responses.gram + identity * responses.identity + near
    effect = responses.mean[:, own]
    amounts = np.linalg.solve(matrix, effect)
    return amounts / (amounts @ effect)


def combine_evenly(
    responses: Responses,
    own: int,
    weights: np.ndarray,
    units: np.ndarray,
    step: float,
    identity: float = 0.0,
    near: np.ndarray | float = 0.0,
) -> np.ndarray:
    """As `combine`, with entanglements in shares of `units`, and no entanglement let grow much larger than the others.

    Where the largest entanglement counts, a sum of squares trades one large entanglement for many small ones. The
    weight of each score whose entanglement is larger than `EVEN_SHARE` is therefore raised, and the basis directions
    are summed anew.

    Args:
        responses: of K basis directions.
        own: number of the score to move.
        weights: (S,) how much an entanglement into each score matters: 1, or less.
        units: (S,) effect that an entanglement into each score is compared with; `own`'s is how far the sum is to move
            it.
        step: as for `combine`, at that size of the sum; likewise `identity` and `near`.
        identity: see `step`.
        near: see `step`.

    Returns:
        (K,) amounts, which move `own` by 1.
    """
    raised = np.ones(len(weights))
    for _ in range(EVEN_ROUNDS):
        amounts = combine(responses, own, raised * weights / units, step, identity, near)
        share = weights * responses.largest(amounts) * units[own] / units
        share[own] = 0
        raised *= np.clip(share / max(EVEN_SHARE, EVEN_NEAR * share.max()), 1, 2)
    return amounts
