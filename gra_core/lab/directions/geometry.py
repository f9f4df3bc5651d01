"""Measures of a face that are geometry of its 68 landmarks (iBUG 300-W order, as dlib's predictor gives them).

Every measure takes landmarks (N, 68, 2) in pixels, x to the right and y down, of upright faces, and gives (N,).
Lengths are in units of the distance between the centres of the eyes, so that the size of the picture does not matter.
"Left" and "right" are those of the picture.
"""

from collections.abc import Callable

import numpy as np

NOSE_DEPTH = 0.5
"""Height of the nose tip over the line between the outer eye corners, in units of the distance between them."""

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
BROWS = slice(17, 27)


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the centres of the eyes in pixels, at least 1."""
    eyes = landmarks[:, RIGHT_EYE].mean(1) - landmarks[:, LEFT_EYE].mean(1)
    return np.maximum(np.linalg.norm(eyes, axis=1), 1.0)


def yaw(landmarks: np.ndarray) -> np.ndarray:
    """Turn of the head in degrees, + towards the picture's right.

    With the outer eye corners at depth 0 and the nose tip `NOSE_DEPTH` before them, parallel projection moves the
    tip by depth * sin(yaw) while the corners close in by cos(yaw).
    """
    left, right, tip = landmarks[:, 36, 0], landmarks[:, 45, 0], landmarks[:, 30, 0]
    offset = (tip - (left + right) / 2) / np.maximum(right - left, 1.0)
    return np.degrees(np.arctan(offset / NOSE_DEPTH))


def nose_drop(landmarks: np.ndarray) -> np.ndarray:
    """How far down between eyes and mouth the nose tip lies, 0 to 1: it moves up as the head tilts up."""
    eyes, tip, mouth = landmarks[:, 36:48, 1].mean(1), landmarks[:, 30, 1], landmarks[:, [48, 54], 1].mean(1)
    return (tip - eyes) / np.maximum(mouth - eyes, 1.0)


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the corners of the mouth."""
    return np.linalg.norm(landmarks[:, 54] - landmarks[:, 48], axis=1) / eye_distance(landmarks)


def mouth_gap(landmarks: np.ndarray) -> np.ndarray:
    """Gap between the lips: 0 for a closed mouth."""
    gap = landmarks[:, [65, 66, 67], 1].mean(1) - landmarks[:, [61, 62, 63], 1].mean(1)
    return gap / eye_distance(landmarks)


def lip_thickness(landmarks: np.ndarray) -> np.ndarray:
    """Thickness of the upper and the lower lip together."""
    upper = landmarks[:, [61, 62, 63], 1].mean(1) - landmarks[:, [50, 51, 52], 1].mean(1)
    lower = landmarks[:, [56, 57, 58], 1].mean(1) - landmarks[:, [65, 66, 67], 1].mean(1)
    return (upper + lower) / eye_distance(landmarks)


def eye_opening(landmarks: np.ndarray) -> np.ndarray:
    """Height of the eyes over their width, mean of both: 0 for closed eyes."""
    ratios = []
    for eye in (LEFT_EYE, RIGHT_EYE):
        p = landmarks[:, eye]
        height = p[:, [4, 5], 1].mean(1) - p[:, [1, 2], 1].mean(1)
        ratios.append(height / np.maximum(np.linalg.norm(p[:, 3] - p[:, 0], axis=1), 1.0))
    return np.mean(ratios, axis=0)


def eye_width(landmarks: np.ndarray) -> np.ndarray:
    """Width of the eyes between their corners, mean of both."""
    widths = [np.linalg.norm(landmarks[:, b] - landmarks[:, a], axis=1) for a, b in ((36, 39), (42, 45))]
    return np.mean(widths, axis=0) / eye_distance(landmarks)


def brow_height(landmarks: np.ndarray) -> np.ndarray:
    """Height of the brows over the centres of the eyes."""
    return (landmarks[:, 36:48, 1].mean(1) - landmarks[:, BROWS, 1].mean(1)) / eye_distance(landmarks)


def brow_slope(landmarks: np.ndarray) -> np.ndarray:
    """How much higher the inner ends of the brows are than the outer ends: + worried, - angry."""
    outer, inner = landmarks[:, [17, 18, 25, 26], 1].mean(1), landmarks[:, [20, 21, 22, 23], 1].mean(1)
    return (outer - inner) / eye_distance(landmarks)


def face_width(landmarks: np.ndarray) -> np.ndarray:
    """Width of the face at the height of the cheeks."""
    return (landmarks[:, [13, 14, 15], 0].mean(1) - landmarks[:, [1, 2, 3], 0].mean(1)) / eye_distance(landmarks)


def jaw_width(landmarks: np.ndarray) -> np.ndarray:
    """Width of the jaw at the height of the lower lip over the width of the face: + square, - tapering."""
    jaw = landmarks[:, [10, 11, 12], 0].mean(1) - landmarks[:, [4, 5, 6], 0].mean(1)
    return jaw / np.maximum(landmarks[:, [13, 14, 15], 0].mean(1) - landmarks[:, [1, 2, 3], 0].mean(1), 1.0)


def chin_height(landmarks: np.ndarray) -> np.ndarray:
    """Height of the chin, from the lower lip to its tip."""
    return (landmarks[:, [7, 8, 9], 1].mean(1) - landmarks[:, 57, 1]) / eye_distance(landmarks)


def nose_width(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the outer edges of the nostrils."""
    return (landmarks[:, 35, 0] - landmarks[:, 31, 0]) / eye_distance(landmarks)


def nose_length(landmarks: np.ndarray) -> np.ndarray:
    """Length of the nose, from between the eyes to its base."""
    return (landmarks[:, 33, 1] - landmarks[:, 27, 1]) / eye_distance(landmarks)


GEOMETRY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    measure.__name__: measure
    for measure in (
        yaw,
        nose_drop,
        mouth_width,
        mouth_gap,
        lip_thickness,
        eye_opening,
        eye_width,
        brow_height,
        brow_slope,
        face_width,
        jaw_width,
        chin_height,
        nose_width,
        nose_length,
    )
}
"""All measures of this module by name."""
