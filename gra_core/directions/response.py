"""What offsets do to the scores of faces, and combinations of offsets that move one score alone.

A boundary says which way a score grows over the samples; what a row band of it does to a face, and what else moves with
it, has to be measured. `measure` does that. `combine` then finds, among all sums of measured offsets (atoms), the one
that moves its own score by one unit while the others and the code move least:

    minimise  sum_s weight_s^2 * (mean response_s ^2 + spread * variance over faces of response_s) + step * |offset|^2
    subject to   mean response_own = 1

It is InterFaceGAN's conditional manipulation with measured responses in place of the boundaries' angles.
"""

from collections.abc import Callable, Iterator

import numpy as np

from gra_core.constants import NUM_STYLES
from gra_core.directions.scores import attribute_scores

SPREAD = 0.5
"""How much leaks that differ from face to face matter beside the mean leak: it also keeps the noise in the responses,
which are measured on few faces, from being fitted."""

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


def combine(
    responses: np.ndarray, gram: np.ndarray, own: int, weights: np.ndarray, step: float, spread: float = SPREAD
) -> np.ndarray:
    """Amounts of the atoms whose sum moves score `own` by 1 and all else least.

    Args:
        responses: (K, N, S) of K atoms on N faces, in units of each score in which a leak matters alike.
        gram: (K, K) inner products of the atoms' offsets.
        own: number of the score to move.
        weights: (S,) how much a leak into each score matters; 0 for those that may move. That of `own` is ignored.
        step: how much length matters, per squared unit of W.
        spread: how much the differences between faces matter, beside the mean.

    Returns:
        (K,) amounts.
    """
    mean = responses.mean(1)
    deviation = responses - mean[:, None]
    square = weights**2
    square[own] = 0
    matrix = (mean * square) @ mean.T + step * gram + 1e-9 * np.eye(len(mean))
    matrix += spread * np.einsum("kns,s,lns->kl", deviation, square, deviation) / responses.shape[1]
    amounts = np.linalg.solve(matrix, mean[:, own])
    return amounts / (amounts @ mean[:, own])


def separate(offsets: np.ndarray, slopes: np.ndarray, kept: np.ndarray, damping: float = 0.05) -> np.ndarray:
    """Take out of each edit what it does to the scores of the others, as far as sums of the edits can.

    Args:
        offsets: (E, 16, 512) of the edits.
        slopes: (E, E) what each (row) does to the score of each (column).
        kept: (E, E) bool, effects that are to stay; the diagonal stays in any case.
        damping: how little of a leak, as a share of the own effects, is not worth taking out.

    Returns:
        (E, 16, 512).
    """
    own = np.diag(slopes)
    relative = slopes / own  # columns in units of what their own edit does
    wanted = np.where(kept, relative, 0)
    np.fill_diagonal(wanted, 1)
    normal = relative @ relative.T + damping**2 * np.eye(len(own))
    mixing = np.linalg.solve(normal, relative @ wanted.T).T
    mixing /= np.diag(mixing)[:, None]
    return np.tensordot(mixing, offsets, 1).astype(np.float32)
