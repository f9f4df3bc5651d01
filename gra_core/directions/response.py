"""What offsets do to the scores and to the identity of faces, and sums of offsets that move one score alone.

A boundary says which way a score grows over the samples; what a row band of it does to a face, and what else moves with
it, has to be measured. `sweep` does that. `combine` then finds, among all sums of measured offsets (atoms), the one
that moves its own score by one unit while the others, the person and the code move least:

    minimise  sum_s weight_s^2 * (mean response_s ^2 + spread * variance over faces of response_s)
              + identity * mean over faces |change of the face descriptor|^2 + step * |offset|^2 + near
    subject to   mean response_own = 1

Each term is a quadratic form in the amounts. It is InterFaceGAN's conditional manipulation with measured responses in
place of the boundaries' angles, and with what a face net sees of the person as one more thing to hold.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
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

IN_FLIGHT = 6
"""Offsets whose pictures may wait for their scores while the next are rendered."""

EVEN_SHARE, EVEN_ROUNDS = 0.2, 12
"""Leak, as a share of what is allowed to none, from which a score's weight is raised, and how many times."""


def codes_of(faces: np.ndarray) -> np.ndarray:
    """W+ codes (N, 16, 512) of codes w (N, 512); W+ codes as they are."""
    return np.repeat(faces[:, None], NUM_STYLES, axis=1) if faces.ndim == 2 else faces


@dataclass(frozen=True)
class Effect:
    """What multiples of one offset did to N faces.

    Attributes:
        offset: (16, 512).
        scores: (F, N, S) after each of F multiples.
        descriptors: (F, N, 128) of the faces after each, or (F, 0, 128) where they were not taken.
    """

    offset: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray

    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Half the difference between the last multiple and the first: of scores (N, S) and descriptors (N, 128)."""
        return (self.scores[-1] - self.scores[0]) / 2, (self.descriptors[-1] - self.descriptors[0]) / 2


def sweep(
    faces, pool, offsets: Mapping[str, np.ndarray], factors: Sequence[float], *, describe: bool, until: float = np.inf
) -> Iterator[tuple[str, Effect]]:  # noqa: E501
    """Measure multiples of offsets on faces, one after the other.

    Args:
        faces: a `faces.FaceSet`.
        pool: a `workers.ScoringPool`.
        offsets: (16, 512) by name.
        factors: the multiples, in rising order.
        describe: whether to take face descriptors.
        until: time, by `time.monotonic`, from which no further offset is begun.

    Yields:
        The name and effect of each offset in order.
    """
    from gra_core.directions.workers import DESCRIPTOR  # noqa: PLC0415

    waiting: deque = deque()

    def finish() -> tuple[str, Effect]:
        name, pending = waiting.popleft()
        measures = [wait() for wait in pending]
        described = [m.get(DESCRIPTOR, np.zeros((0, 128))) for m in measures]
        scores = np.float32([attribute_scores(m) for m in measures])
        return name, Effect(offsets[name], scores, np.float32(described))

    for name, offset in offsets.items():
        if monotonic() > until:
            break
        waiting.append((name, [pool.submit(faces.draw(f * offset), describe=describe) for f in factors]))
        if len(waiting) > IN_FLIGHT:
            yield finish()
    while waiting:
        yield finish()


def kept_effects(folder: Path) -> dict[str, Effect]:
    """Effects by name that `keep_effect` left in a folder."""
    result = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as kept:
            result[file.stem] = Effect(*(kept[name].astype(np.float32) for name in ("offset", "scores", "descriptors")))
    return result


def keep_effect(folder: Path, name: str, effect: Effect) -> None:
    """Write an effect to a folder, the offset and descriptors as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    small = {"offset": effect.offset.astype(np.float16), "descriptors": effect.descriptors.astype(np.float16)}
    np.savez_compressed(folder / f"{name}.npz", scores=effect.scores, **small)


@dataclass(frozen=True)
class Responses:
    """What K atoms do to S scores.

    Attributes:
        mean: (K, S) expected effect on a face.
        deviation: (K, N, S) differences of N measured faces from their mean.
        gram: (K, K) inner products of the atoms' offsets.
        identity: (K, K) inner products of the atoms' effects on the face descriptor, mean over faces.
        kinds: (N,) which kind of faces each is of; leaks are held to the bound on each kind.
    """

    mean: np.ndarray
    deviation: np.ndarray
    gram: np.ndarray
    identity: np.ndarray
    kinds: np.ndarray

    @classmethod
    def measured(
        cls, slopes: np.ndarray, atoms: np.ndarray, descriptors: np.ndarray, kinds: np.ndarray | None = None
    ) -> Self:
        """From slopes (K, N, S) of atoms (K, 16, 512), and of the descriptors (K, M, 128) of all or some of the faces."""
        flat = atoms.reshape(len(atoms), -1)
        seen = descriptors.reshape(len(atoms), -1).astype(np.float64)
        mean = slopes.mean(1)
        kinds = np.zeros(slopes.shape[1], int) if kinds is None else kinds
        identity = seen @ seen.T / max(descriptors.shape[1], 1)
        return cls(mean, slopes - mean[:, None], flat @ flat.T, identity, kinds)

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

    def change(self, amounts: np.ndarray) -> float:
        """Root mean square change of the face descriptor by a sum (K,), as far as effects add up."""
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
    spread: float = SPREAD,
) -> np.ndarray:
    """Amounts of the atoms whose sum moves score `own` by 1 and all else least.

    Args:
        responses: of K atoms, in units of each score in which a leak matters alike.
        own: number of the score to move.
        weights: (S,) how much a leak into each score matters; 0 for those that may move. That of `own` is ignored.
        step: how much length matters, per squared unit of W.
        identity: how much a change of the person matters, per squared distance of face descriptors.
        near: (K, K) further quadratic form to hold down.
        spread: how much the differences between faces matter, beside the mean.

    Returns:
        (K,) amounts.
    """
    held = np.array(weights, np.float64)
    held[own] = 0
    mean, deviation = responses.mean * held, responses.deviation * held
    faces = deviation.shape[1]
    deviation = deviation.reshape(len(deviation), -1)
    matrix = mean @ mean.T + spread / faces * deviation @ deviation.T + 1e-9 * np.eye(len(mean))
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
    """As `combine`, with leaks in shares of `units`, and no leak let grow much larger than the others.

    Where the largest leak counts, a sum of squares trades one large leak for many small ones. The weight of each score
    whose leak is larger than `EVEN_SHARE` is therefore raised, and the atoms are summed anew.

    Args:
        responses: of K atoms.
        own: number of the score to move.
        weights: (S,) how much a leak into each score matters: 1, or less.
        units: (S,) effect that a leak into each score is compared with; `own`'s is how far the sum is to move it.
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
        raised *= np.clip(share / EVEN_SHARE, 1, 2)
    return amounts
