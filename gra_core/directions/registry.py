"""The edits that sliders offer: one W+ offset each, those shipped read from one safetensors file.

Reads with numpy only, so that listing edits and checking slider values does not wait for torch.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from gra_core.constants import CHECKPOINT_DIR, MAX_STRENGTH, NUM_STYLES, STYLE_DIM
from gra_core.errors import CheckpointError, StrengthError, UnknownEditError, refusing

DIRECTIONS_FILE = CHECKPOINT_DIR / "directions.safetensors"
FILE_FORMAT = "gra-directions-1"
VECTORS = "vectors"
"""Name of the tensor that holds all offsets, (N, 16, 512), or (N, 512) when all rows are moved alike."""
RELEASES = "releases"
"""Name of the tensor that holds all `EditDirection.releases`, (N, 2, RELEASE_SIDE, RELEASE_SIDE), uint8 up to 255."""
RELEASE_SIDE = 32
FULL_RELEASE = 20.0
"""Strength from which on an edit releases the photo as its map says."""
FULL_TURN = 60.0
"""A turn of the head, in strengths, that thins frames as much as any."""
GLASSES = "glasses"
"""Key of the edit that puts glasses on."""
GLASSES_PROBE = "glasses_probe"
"""Name of the tensor that tells who wears glasses."""


@dataclass(frozen=True, eq=False)
class EditDirection:
    """One edit: what the page says about it and how far +100 moves the W+ code.

    Attributes:
        key: name on the command line.
        label: name on the slider.
        hint: what + and - do, one sentence.
        minimum: smallest strength, -100, or 0 for a one-sided edit.
        maximum: largest strength, 100.
        vector: (16, 512) float32, the W+ offset at strength +100; read-only.
        group: heading under which the page shows the slider.
        caveat: what tends to change along with it; may be empty.
        provenance: how the direction was found.
        kind: the method it comes from: interfacegan, stylespace, ganspace, text, mapper or file; may be empty.
        gain: how much further than the slider says the Editing Stream moves the code: what the residuals keep of the
            photo takes about as much back.
        turns: whether it turns the head.
        thins_glasses: share of the photo's glasses that a strength of FULL_TURN takes off by mistake; below 0: one of
            -FULL_TURN.
        releases: where the edit, with + and with -, takes detail away though nothing moves, and so the photo's own
            cannot stay, 0 to 1, (2, RELEASE_SIDE, RELEASE_SIDE) over the aligned face; None: everywhere.
        score: the measure of `scores.SCORED_BY` that it is meant to move; empty: the one of its key.
        mapper: for an edit that depends on the face, its offset (16, 512) at strength +100 for a W+ code (16, 512);
            `vector` then is that for the average face. Not kept in files.
    """

    key: str
    label: str
    hint: str
    minimum: float
    maximum: float
    vector: np.ndarray
    group: str = "Face"
    caveat: str = ""
    provenance: str = ""
    kind: str = ""
    score: str = ""
    gain: float = 1.0
    turns: bool = False
    thins_glasses: float = 0.0
    releases: np.ndarray | None = None
    mapper: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def layers(self) -> tuple[int, int]:
        """First and last row of the W+ code that the edit moves."""
        rows = np.flatnonzero(np.abs(self.vector).max(1))
        return int(rows[0]), int(rows[-1])


_TEXT_FIELDS = tuple(
    field.name for field in fields(EditDirection) if field.name not in {"vector", "releases", "mapper"}
)
_OPTIONAL_FIELDS = {"kind", "score", "gain", "turns", "thins_glasses"}
"""Fields that files written before they existed lack."""


def load_directions(path: Path = DIRECTIONS_FILE) -> dict[str, EditDirection]:
    """Read the edits of a directions file, in slider order.

    Raises:
        CheckpointError: the file is missing, is not a directions file, or holds values that cannot be right.
    """
    if not path.is_file():
        raise CheckpointError(f"The directions file {path.name} is missing. Fetch it again.")
    with refusing(CheckpointError, f"The directions file {path.name} is damaged. Fetch it again."):
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            vectors = file.get_tensor(VECTORS)
            releases = file.get_tensor(RELEASES) if RELEASES in set(file.keys()) else [None] * len(vectors)
        records = json.loads(metadata["edits"])
        edits = [_edit(*of_edit) for of_edit in zip(records, _rows(vectors), releases, strict=True)]
    directions = {edit.key: edit for edit in edits}
    if len(directions) != len(edits):
        raise CheckpointError(f"The directions file {path.name} names an edit twice. Fetch it again.")
    return directions


def load_glasses_probe(path: Path = DIRECTIONS_FILE) -> np.ndarray | None:
    """Weights (F + 1,) of the `GlassesProbe` that a directions file was fitted with; None where it holds none."""
    wrong = f"The directions file {path.name} is damaged. Fetch it again."
    with refusing(CheckpointError, wrong), safe_open(path, framework="numpy") as file:
        return file.get_tensor(GLASSES_PROBE) if GLASSES_PROBE in set(file.keys()) else None


def save_directions(path: Path, edits: Sequence[EditDirection], extra: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a directions file; the vectors are stored as float16.

    Args:
        path: the file to write.
        edits: in slider order.
        extra: further tensors to keep in the same file, not read by `load_directions`.

    Raises:
        OSError: the file cannot be written.
    """
    records = [{name: getattr(edit, name) for name in _TEXT_FIELDS} for edit in edits]
    tensors = {VECTORS: np.stack([edit.vector for edit in edits]).astype(np.float16), **(extra or {})}
    if any(edit.releases is not None for edit in edits):
        everywhere = np.ones((2, RELEASE_SIDE, RELEASE_SIDE), np.float32)
        releases = [everywhere if edit.releases is None else edit.releases for edit in edits]
        tensors[RELEASES] = (255 * np.stack(releases)).round().astype(np.uint8)
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(tensors, {"format": FILE_FORMAT, "edits": json.dumps(records)}))
    part.replace(path)


def edit_offset(
    directions: Mapping[str, EditDirection],
    strengths: Mapping[str, float],
    code: np.ndarray | None = None,
    *,
    gained: bool = False,
) -> np.ndarray:
    """W+ offset of a set of slider values: the sum of strength / 100 * vector.

    Args:
        directions: the edits by key.
        strengths: slider values by key.
        code: W+ code (16, 512) of the face, for edits that depend on it; the average face by default.
        gained: whether to go as far as the Editing Stream needs (`EditDirection.gain`).

    Returns:
        (16, 512) float32, to be added to a W+ code; exact zeros when all strengths are 0.

    Raises:
        UnknownEditError: a key is not in `directions`.
        StrengthError: a strength is not a finite number or lies outside its slider's range.
    """
    offset = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
    for key, strength in strengths.items():
        edit = directions.get(key)
        if edit is None:
            raise UnknownEditError(_unknown(key, directions))
        value = _number(key, strength)
        if not edit.minimum <= value <= edit.maximum:
            raise StrengthError(f"{key} goes from {edit.minimum:g} to {edit.maximum:g}; {value:g} is outside.")
        if value:
            full = edit.vector if edit.mapper is None or code is None else edit.mapper(code)
            offset += np.float32(value / MAX_STRENGTH * (edit.gain if gained else 1.0)) * full
    return offset


def preserved(directions: Mapping[str, EditDirection], strengths: Mapping[str, float]) -> np.ndarray:
    """Where a set of slider values lets the photo stay though nothing moves: where none of the edits releases it.

    Returns:
        (RELEASE_SIDE, RELEASE_SIDE) float32 over the aligned face, 0 to 1.
    """
    keep = np.ones((RELEASE_SIDE, RELEASE_SIDE), np.float32)
    for key, strength in strengths.items():
        if strength:
            releases = directions[key].releases
            share = np.float32(min(abs(strength) / FULL_RELEASE, 1.0))
            keep = np.minimum(keep, 1 - share * (1.0 if releases is None else releases[int(strength < 0)]))
    return keep


def turning(directions: Mapping[str, EditDirection], strengths: Mapping[str, float]) -> float:
    """How far a set of slider values turns the head, in strengths, 0 to about 141."""
    return math.hypot(*(strength for key, strength in strengths.items() if directions[key].turns))


def glasses_thinned(directions: Mapping[str, EditDirection], strengths: Mapping[str, float]) -> float:
    """Share of the photo's glasses that a set of slider values takes off by mistake, 0 and more."""
    shares = [(directions[key].thins_glasses, strength / FULL_TURN) for key, strength in strengths.items()]
    return sum(abs(share) * min(max(math.copysign(1, share) * turn, 0.0), 1.0) for share, turn in shares)


def _number(key: str, strength: object) -> float:
    try:
        value = float(strength)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise StrengthError(f"The strength of {key} must be a number, not {str(strength)[:40]!r}.") from None
    if not math.isfinite(value):
        raise StrengthError(f"The strength of {key} must be a finite number, not {value}.")
    return value


def _unknown(key: str, directions: Mapping[str, EditDirection]) -> str:
    close = difflib.get_close_matches(str(key), directions, n=3)
    guess = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no edit named {str(key)[:40]!r}.{guess} Edits: {', '.join(directions)}."


def _rows(vectors: np.ndarray) -> np.ndarray:
    """(N, 512) or (N, 16, 512) of any float type -> (N, 16, 512) float32, checked."""
    if vectors.ndim == 2:
        vectors = np.repeat(vectors[:, None], NUM_STYLES, axis=1)
    if vectors.shape[1:] != (NUM_STYLES, STYLE_DIM):
        raise ValueError(f"offsets have shape {vectors.shape[1:]}, not {(NUM_STYLES, STYLE_DIM)}")
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("an offset is not finite")
    return vectors


def _edit(record: Mapping[str, object], vector: np.ndarray, releases: np.ndarray | None) -> EditDirection:
    names = [name for name in _TEXT_FIELDS if name in record or name not in _OPTIONAL_FIELDS]
    if releases is not None:
        releases = releases.reshape(2, RELEASE_SIDE, RELEASE_SIDE).astype(np.float32) / 255
    edit = EditDirection(vector=vector, releases=releases, **{name: record[name] for name in names})  # type: ignore[arg-type]
    if not isinstance(edit.key, str) or edit.minimum not in (-MAX_STRENGTH, 0) or edit.maximum != MAX_STRENGTH:
        raise ValueError(f"the record of edit {edit.key!r} is not valid")
    if not vector.any():
        raise ValueError(f"the offset of edit {edit.key!r} is zero")
    vector.flags.writeable = False
    return edit
