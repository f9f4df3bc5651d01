"""From a photo to aligned faces.

Faces are cropped as those of the FFHQ dataset are (https://github.com/NVlabs/ffhq-dataset), because the
generator and the encoder know no others: an upright square, turned and sized by the eyes and the mouth.

All coordinates are continuous: the photo spans (0, 0) to (width, height), the centre of its first pixel is (0.5, 0.5).
"""

import functools
import importlib.util
import itertools
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import dlib
import numpy as np
from PIL import Image, ImageFilter

from gra_core.constants import IMAGE_SIZE
from gra_core.errors import CheckpointError, FaceTooSmallError, NoFaceError
from gra_core.images import QUARTER_TURNS, Photo, as_rgb

MIN_CROP_SIDE = 64.0
"""A crop with a shorter side, in photo pixels, shows too little of a face to edit."""

_SEARCH_SIDES = (1000, 2000, 4000, 8000, 16000)
"""Long side of the copy that is searched for faces, px; the next one only when nothing was found. The detector
sees faces of 80 px and more, so the first finds those of 8 % of the photo in 0.1 s, the third those of 2 % in 1 s."""

_TURNED_SIDES = _SEARCH_SIDES[:2]
"""Copies that are searched on their sides and upside down, too."""

_MAX_ENLARGEMENT = 3.0
"""Small photos are enlarged by no more than this to be searched: faces that need more are below MIN_CROP_SIDE."""

_MAX_ENLARGED_SIDE = 4000
_SEARCH_PIXELS = 50e6
"""Copies are enlarged up to this side, and are of no more pixels than this: 4 s."""

_SEARCH_SECONDS = 7.0
"""No further copy is searched after this time."""

_TILE_SIDE, _TILE_OVERLAP = 2400, 400
"""A copy is searched in tiles, px; faces larger than the overlap were found in a smaller copy."""

_SURE_SCORE = 0.2
"""Detector scores below this are more often a badge or a knee than a face: used only when there is nothing else."""

_SURE_TURNED_SCORE = 1.0
"""Likewise, of a turned copy: patterns on the side of upright faces reach 0.7."""

TURNED = {
    quarters: f"The photo was turned {how} to have its faces upright."
    for quarters, how in {1: "clockwise by a quarter", 2: "by half", 3: "counterclockwise by a quarter"}.items()
}
"""Notes on a photo that was turned, by the number of quarters."""

_LANDMARK_BOX = 256
"""Side of the face box, px, in the copy in which landmarks are looked for. Photos of every size come out alike."""

_JITTER = (*((x, y, 1) for x in (-0.04, 0, 0.04) for y in (-0.04, 0, 0.04)), (0, 0, 0.94), (0, 0, 1.06))
"""Shifts (shares of the box) and zooms of the face box over which landmarks are averaged. The predictor depends
on where exactly the box lies; averaging halves the resulting wobble of the crop (0.45 % -> 0.22 % of its side)."""

_PREDICTOR_PACKAGE = "face_recognition_models"
_PREDICTOR_FILE = "models/shape_predictor_68_face_landmarks.dat"

_DLIB_LOCK = threading.Lock()  # dlib's detector keeps scratch memory inside: one thread at a time


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in a photo."""

    box: tuple[int, int, int, int]
    """(left, top, right, bottom) in photo pixels, inside the photo."""
    landmarks: np.ndarray
    """Float (68, 2), x and y in photo pixels, in iBUG order: 36..41 and 42..47 eyes, 48 and 54 mouth corners."""

    def moved(self, matrix: np.ndarray) -> Self:
        """The face in another picture of the photo, whose points a 3x3 matrix takes the photo's points to."""
        left, top, right, bottom = self.box
        corners = _moved(np.array([(left, top), (left, bottom), (right, bottom), (right, top)], float), matrix)
        box = *np.floor(corners.min(0) + 1e-6).astype(int), *np.ceil(corners.max(0) - 1e-6).astype(int)
        return replace(self, box=tuple(map(int, box)), landmarks=_moved(self.landmarks, matrix))


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A face cut out of its photo, and where it was cut out."""

    image: Image.Image
    """The crop: RGB, IMAGE_SIZE x IMAGE_SIZE."""
    quad: np.ndarray
    """Float (4, 2): corners top left, bottom left, bottom right, top right of the crop in photo pixels. May lie
    outside the photo."""
    face: Face

    @property
    def side(self) -> float:
        """Side of the crop in photo pixels."""
        return _side(self.quad)

    @classmethod
    def of_crop(cls, crop: Image.Image) -> Self:
        """Of a square picture that is an aligned face already: the picture is the photo."""
        side = crop.width
        quad = np.array([(0, 0), (0, side), (side, side), (side, 0)], float)
        image = crop.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
        return cls(image, quad, Face((0, 0, side, side), np.zeros((0, 2))))

    def moved(self, matrix: np.ndarray) -> Self:
        """As `Face.moved`; the matrix is affine."""
        return replace(self, quad=_moved(self.quad, matrix), face=self.face.moved(matrix))


class FaceAligner:
    """Finds faces and crops them as FFHQ does. Holds nothing of a photo, so one may serve all threads."""

    def detect(self, photo: Image.Image) -> list[Face]:
        """Find the upright faces in an RGB photo of any size.

        Returns:
            At least one face, largest box first.

        Raises:
            NoFaceError: there is none.
            CheckpointError: the landmark predictor is not installed.
        """
        return self._faces(as_rgb(photo), (0,))[1]

    def find(self, photo: Photo) -> tuple[Photo, list[Face]]:
        """As `detect`, in the photo as it is and, where there is no face, on its sides and upside down.

        Returns:
            The photo, turned if need be, with a note that says so; and its faces as of `detect`.
        """
        quarters, faces = self._faces(photo.image, (0, 1, 2, 3))
        return (photo.turned(quarters, TURNED[quarters]) if quarters else photo), faces

    def _faces(self, photo: Image.Image, turns: tuple[int, ...]) -> tuple[int, list[Face]]:
        """By how many quarters the photo has to be turned clockwise, and its faces then."""
        with _DLIB_LOCK:
            quarters, boxes = _find_boxes(photo, turns)
            photo = photo.transpose(QUARTER_TURNS[quarters]) if quarters else photo
            boxes = [box for box in boxes if box[2] - box[0] > 1 and box[3] - box[1] > 1]
            faces = [Face(_clip_box(box, photo.size), _find_landmarks(photo, box)) for box in boxes]
        if not faces:
            raise NoFaceError(
                "No face found. Faces in profile are not seen: try a photo with a larger face that shows both eyes."
            )
        return quarters, sorted(faces, key=lambda face: -area(face.box))

    def align(self, photo: Image.Image, face: Face) -> AlignedFace:
        """Crop one face of the photo to IMAGE_SIZE x IMAGE_SIZE.

        Raises:
            FaceTooSmallError: the crop's side is below MIN_CROP_SIDE photo pixels.
        """
        quad = ffhq_quad(face.landmarks)
        side = _side(quad)
        if side < MIN_CROP_SIDE:
            raise FaceTooSmallError(
                f"The face is too small to edit ({side:.0f} pixels with its surroundings, {MIN_CROP_SIDE:.0f} are "
                "needed). Try a photo in which the face is larger."
            )
        return AlignedFace(crop_at(photo, quad, IMAGE_SIZE), quad, face)

    def align_photo(self, photo: Image.Image, index: int = 0) -> AlignedFace:
        """Detect and crop in one go; `index` counts from 0, the largest face.

        Raises:
            NoFaceError: there is no face, or none of that number.
            FaceTooSmallError: see `align`.
        """
        faces = self.detect(photo)
        if not 0 <= index < len(faces):
            found = "Only one face was found: it is number 0."
            if len(faces) > 1:
                found = f"{len(faces)} faces were found: choose a number from 0 (the largest) to {len(faces) - 1}."
            raise NoFaceError(f"There is no face number {index}. {found}")
        return self.align(photo, faces[index])


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Compute where FFHQ crops a face.

    The square's horizontal axis is the mean of "from eye to eye" and "from eyes to mouth, turned by 90 degrees";
    its half side is 2.0 eye distances or 1.8 eye-to-mouth distances, whichever is longer; its centre lies a
    tenth of the way from the eyes to the mouth. From the dataset's published alignment,
    https://github.com/NVlabs/ffhq-dataset (also: Karras et al. 2018, arXiv 1710.10196, appendix C).

    Args:
        landmarks: float (68, 2) in iBUG order, x and y in pixels.

    Returns:
        Float (4, 2): corners top left, bottom left, bottom right, top right, of a square.
    """
    left_eye, right_eye = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    eyes = (left_eye + right_eye) / 2
    eye_to_eye = right_eye - left_eye
    eyes_to_mouth = (landmarks[48] + landmarks[54]) / 2 - eyes

    across = eye_to_eye + np.array([eyes_to_mouth[1], -eyes_to_mouth[0]])
    half_side = max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eyes_to_mouth))
    across *= half_side / max(np.hypot(*across), 1e-6)
    down = np.array([-across[1], across[0]])
    centre = eyes + 0.1 * eyes_to_mouth
    return np.stack([centre - across - down, centre - across + down, centre + across + down, centre + across - down])


def crop_to_photo(quad: np.ndarray) -> np.ndarray:
    """Where the points of a crop lie in its photo.

    Args:
        quad: corners of the crop, as of `AlignedFace`; a parallelogram.

    Returns:
        The 3x3 matrix that takes (0, 0), (0, 1), (1, 1), (1, 0) to the corners.
    """
    matrix = np.eye(3)
    matrix[:2] = np.stack([quad[3] - quad[0], quad[1] - quad[0], quad[0]], axis=1)
    return matrix


# --- detection -----------------------------------------------------------------------------------------------------


@functools.cache
def _detector() -> "dlib.fhog_object_detector":
    return dlib.get_frontal_face_detector()


def landmark_model() -> Path:
    """Path of dlib's 68-point predictor. Its package, which needs pkg_resources, is not imported.

    Raises:
        CheckpointError: it is not installed.
    """
    spec = importlib.util.find_spec(_PREDICTOR_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0], _PREDICTOR_FILE) if folders else None
    if path is None or not path.is_file():
        raise CheckpointError(
            "The face landmark model is missing. Install it with: pip install face_recognition_models"
        )
    return path


@functools.cache
def _predictor() -> "dlib.shape_predictor":
    """Load the 68-point predictor (100 MB, 0.6 s)."""
    path = landmark_model()
    try:
        return dlib.shape_predictor(str(path))
    except RuntimeError as error:
        raise CheckpointError(
            "The face landmark model is damaged. Install it with: pip install --force-reinstall face_recognition_models"
        ) from error


_Box = tuple[float, float, float, float]


def _find_boxes(photo: Image.Image, turns: tuple[int, ...]) -> tuple[int, list[_Box]]:
    """Search ever finer copies of the photo until one shows a face.

    Args:
        photo: RGB.
        turns: quarters by which it may be turned clockwise, 0 first.

    Returns:
        By how many quarters it has to be turned, and the boxes then.
    """
    unsure: tuple[float, int, list[_Box]] = (-1.0, 0, [])
    last_scale, end = 0.0, time.monotonic() + _SEARCH_SECONDS
    for side in _SEARCH_SIDES:
        largest = _MAX_ENLARGEMENT if side <= _MAX_ENLARGED_SIDE else 1.0
        scale = min(side / max(photo.size), largest, (_SEARCH_PIXELS / (photo.width * photo.height)) ** 0.5)
        if scale < 1.2 * last_scale or time.monotonic() > end:
            break
        last_scale = scale
        copy = _resize(photo, (0, 0, *photo.size), scale)
        found = []
        for turn in turns if side in _TURNED_SIDES else turns[:1]:
            turned = copy.transpose(QUARTER_TURNS[turn]) if turn else copy
            size = photo.size[::-1] if turn % 2 else photo.size
            boxes = _detected(np.asarray(turned), size, end)
            least = _SURE_TURNED_SCORE if turn else _SURE_SCORE
            sure = [box for score, box in boxes if score >= least]
            best = max((score for score, _ in boxes), default=-1.0)
            if sure:
                found.append((best, turn, [box for score, box in boxes if score >= _SURE_SCORE]))
                if not turn:
                    break
            elif best > unsure[0] and (best >= _SURE_SCORE or not turn):
                unsure = best, turn, [box for _, box in boxes]
        if found:
            return max(found, key=lambda one: one[0])[1:]
    return unsure[1:]


def _detected(pixels: np.ndarray, size: tuple[int, int], end: float) -> list[tuple[float, _Box]]:
    """Scores and boxes of the faces in a copy (H, W, 3) of a photo of `size`, in the photo's pixels; until `end`."""
    height, width = pixels.shape[:2]
    sx, sy = width / size[0], height / size[1]
    found: list[tuple[float, _Box]] = []
    for top, left in itertools.product(_starts(height), _starts(width)):
        if time.monotonic() > end:
            break
        tile = np.ascontiguousarray(pixels[top : top + _TILE_SIDE, left : left + _TILE_SIDE])
        rectangles, scores, _ = _detector().run(tile, 0, 0.0)
        for r, score in zip(rectangles, scores, strict=True):
            edges = (r.left() + left, r.top() + top, r.right() + 1 + left, r.bottom() + 1 + top)
            found.append((score, tuple(edge / s for edge, s in zip(edges, (sx, sy, sx, sy), strict=True))))
    kept: list[tuple[float, _Box]] = []
    for score, box in sorted(found, reverse=True):  # tiles overlap
        if all(shared_area(box, other) < 0.3 * min(area(box), area(other)) for _, other in kept):
            kept.append((score, box))
    return kept


def _starts(length: int) -> range:
    """Where tiles begin along a side."""
    return range(0, max(length - _TILE_OVERLAP, 1), _TILE_SIDE - _TILE_OVERLAP)


def shared_area(one: _Box, other: _Box) -> float:
    """Of two boxes (left, top, right, bottom)."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)


def _find_landmarks(photo: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
    """Predict the 68 landmarks of the face in `box`: float (68, 2) in photo pixels."""
    width, height = box[2] - box[0], box[3] - box[1]
    region = _clip_box((box[0] - width / 2, box[1] - height / 2, box[2] + width / 2, box[3] + height / 2), photo.size)
    copy = _resize(photo, region, _LANDMARK_BOX / max(width, height))
    scale = np.array([copy.width / (region[2] - region[0]), copy.height / (region[3] - region[1])])
    centre = (np.array([box[0] + box[2], box[1] + box[3]]) / 2 - region[:2]) * scale
    half = np.array([width, height]) / 2 * scale

    pixels = np.asarray(copy)
    predictions = []
    for x, y, zoom in _JITTER:
        middle = centre + 2 * half * (x, y)
        left, top = np.rint(middle - zoom * half).astype(int).tolist()
        right, bottom = np.rint(middle + zoom * half).astype(int).tolist()
        shape = _predictor()(pixels, dlib.rectangle(left, top, right - 1, bottom - 1))
        predictions.append([(point.x, point.y) for point in shape.parts()])
    return (np.mean(predictions, axis=0) + 0.5) / scale + region[:2]


# --- geometry ------------------------------------------------------------------------------------------------------


def area(box: _Box) -> float:
    """Of a box (left, top, right, bottom)."""
    return (box[2] - box[0]) * (box[3] - box[1])


def _clip_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Round a box to whole pixels and keep it inside the photo, at least 1 px wide and high."""
    left, top = (min(max(round(value), 0), limit - 1) for value, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(round(value), limit) for value, limit in zip(box[2:], size, strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _bounds(quad: np.ndarray, size: tuple[int, int], margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return the whole pixels of the photo that the quad, widened by `margin` px, touches."""
    left, top = np.clip(np.floor(quad.min(axis=0) - margin), 0, np.array(size)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(quad.max(axis=0) + margin), 0, np.array(size)).astype(int).tolist()
    return left, top, right, bottom


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N, 2), taken along by an affine 3x3 matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _side(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def _resize(image: Image.Image, region: tuple[int, int, int, int], scale: float) -> Image.Image:
    size = (max(1, round((region[2] - region[0]) * scale)), max(1, round((region[3] - region[1]) * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, box=region, reducing_gap=3.0)


def _transform(image: Image.Image, to_image: np.ndarray, size: tuple[int, int], oversampling: int) -> np.ndarray:
    """Draw an RGB picture anew, as if its points had been moved.

    Args:
        image: RGB picture.
        to_image: affine 3x3 matrix that takes points of the result to points of `image`.
        size: width and height of the result.
        oversampling: each pixel of the result is the mean of this many x this many samples.

    Returns:
        Float32 (height, width, 3), 0..255 but for a slight overshoot; 0 outside the picture. Computed in float,
        since Pillow cuts off fractions in 8 bit, which would darken by half a level each time.
    """
    width, height = size
    matrix = (to_image @ np.diag([1 / oversampling, 1 / oversampling, 1.0]))[:2].ravel().tolist()
    result = np.empty((height, width, 3), dtype=np.float32)
    for channel, band in enumerate(image.split()):
        samples = band.convert("F").transform(
            (width * oversampling, height * oversampling), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
        )
        grid = np.asarray(samples).reshape(height, oversampling, width, oversampling)
        result[..., channel] = grid.mean(axis=(1, 3))
    return result


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


# --- cropping and blending -----------------------------------------------------------------------------------------


def crop_at(photo: Image.Image, quad: np.ndarray, size: int) -> Image.Image:
    """Draw what a quad shows of a photo as a picture of size x size px; beyond the photo, as `_extend` continues it."""
    photo = as_rgb(photo)
    oversampling = 2 if _side(quad) > size else 1  # the transform reads single pixels: against aliasing

    # The part of the photo around the quad, brought down to about the resolution of the samples.
    region = _bounds(quad, photo.size, margin=0.05 * _side(quad))
    patch = _resize(photo, region, min(1.0, oversampling * size / _side(quad)))
    scale = np.array([patch.width / (region[2] - region[0]), patch.height / (region[3] - region[1])])
    quad = (quad - region[:2]) * scale

    reach = np.ceil([-quad.min(axis=0), quad.max(axis=0) - patch.size]).astype(int)
    if reach.max() > 0:  # how far the quad reaches beyond the left, top; right, bottom of the photo
        reach = np.maximum(reach + 4, 0)
        patch = _extend(patch, reach, _side(quad))
        quad = quad + reach[0]

    to_patch = crop_to_photo(quad) @ np.diag([1 / size, 1 / size, 1.0])
    return _to_image(_transform(patch, to_patch, (size, size), oversampling))


def _extend(patch: Image.Image, reach: np.ndarray, side: float) -> Image.Image:
    """Continue a picture beyond its edges by reflection that blurs, and fades to the median colour, with distance.

    FFHQ's fill, with one difference: there the blur begins a little inside the photo. Here it begins at the
    photo's edge, so that every real pixel stays as it is and comes back unharmed when the crop is pasted back.

    Args:
        patch: RGB picture.
        reach: int (2, 2), pixels to add at ((left, top), (right, bottom)).
        side: side of the crop in pixels of `patch`, by which blur and fade are sized.
    """
    (left, top), (right, bottom) = reach.tolist()
    pixels = np.asarray(patch)
    reflected = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="reflect")
    blurred = Image.fromarray(reflected).filter(ImageFilter.GaussianBlur(0.02 * side))

    # Distance to the photo as a share of the way to where only the median colour is left.
    x, y = np.arange(reflected.shape[1]) - left, np.arange(reflected.shape[0]) - top
    away_x = np.maximum(-x, x - patch.width + 1).clip(0) / max(left, right, 0.3 * side)
    away_y = np.maximum(-y, y - patch.height + 1).clip(0) / max(top, bottom, 0.3 * side)
    away = np.maximum(away_x[None, :], away_y[:, None])[..., None].astype(np.float32)

    filled = reflected.astype(np.float32)
    filled += (np.asarray(blurred, dtype=np.float32) - filled) * np.minimum(3 * away, 1)
    filled += (np.median(pixels, axis=(0, 1)).astype(np.float32) - filled) * np.minimum(away, 1)
    return _to_image(filled)
