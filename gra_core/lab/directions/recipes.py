"""The fitted edits as data: what the page says of each, and what the fit aims at.

`fit` makes them from basis directions: each attribute's boundary in W, on each of a few bands of rows of the W+ code,
whose effects were measured (`response`).
"""

from dataclasses import dataclass

import numpy as np

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.lab.directions.boundaries import Boundary

BANDS = {
    "coarse": (0, 3),
    "middle": (4, 7),
    "fine": (8, 15),
    "pose": (0, 1),
    "shape": (2, 3),
    "mouth": (4, 5),
    "eyes": (6, 7),
}
"""First and last rows of the bands: up to 16 px (shape and pose), 32 to 64 px (features), 128 to 1024 px (colour); and
the halves of the first two."""

ATOM_STEP = {**dict.fromkeys(BANDS, 5.0), "fine": 6.0}
"""How far a basis direction moves each of its rows along the boundary's normal when its effect is measured."""

_SHAPE, _COLOUR, _ALL = ("coarse", "middle"), ("middle", "fine"), ("coarse", "middle", "fine")
_HALVES = ("pose", "shape", "mouth", "eyes")

ATOMS: dict[str, tuple[str, ...]] = {
    "mouth_open": _HALVES,
    **dict.fromkeys(("yaw", "surprise", "angry", "sad", "eyes_open", "gaze"), _SHAPE),
    **dict.fromkeys(("eye_size", "brow_height", "brow_slope", "face_width", "jaw", "chin"), _SHAPE),
    **dict.fromkeys(("nose_width", "hair_length"), _SHAPE),
    **dict.fromkeys(("pitch", "nose_length"), ("pose", "shape", "middle")),
    **dict.fromkeys(("lips", "fringe"), ("coarse", "mouth", "eyes")),
    **dict.fromkeys(("smile", "glasses", "age", "gender", "beard"), (*_HALVES, "fine")),
    **dict.fromkeys(("brow_dark", "light_side", "hair_grey", "hair_light"), _ALL),
    **dict.fromkeys(("eye_blue", "lipstick", "hair_red", "skin_light"), _COLOUR),
    **dict.fromkeys(("skin_red", "skin_texture", "warmth", "background"), _COLOUR),
}
"""Bands on which each attribute's boundary is a basis direction."""

STYLE_ATOMS = {"parting": 1686, "teeth": 3740}
"""Style channels that are basis directions, too: row 3, 22 moves hair over the forehead; row 6, 284 lips over the
teeth."""

STYLE_STEP = 5.0
"""How far these are moved, in standard deviations of the channel."""


@dataclass(frozen=True)
class Recipe:
    """One edit.

    Attributes:
        key: of the edit, and of the attribute that it moves.
        label: name on the slider.
        hint: what + and - do, one sentence.
        group: heading on the page.
        effect: what +100 is to add to the score, in standard deviations of the score over generated faces, as far as
            effects add up.
        least: effect that the bound of identity does not cut below.
        longest: length of the offset in W+ that +100 does not exceed, whatever `effect` asks for.
        identity: how much a change of the person matters beside the entanglements, see `response.combine_evenly`.
        near: smallest cosine between the mean of the offset's rows and the attribute's plain boundary in W, which is
            what others publish as this direction; 0: any.
        scale: what the offset is multiplied by at the end: below 1 where the check found that ±100 moved the score no
            more.
        kept: whether the offset of the file that the fit starts from is shipped as it is.
        shipped: whether the edit passed the check; others are fitted only with `--all`.
        along: scores that may move along; the caveat says so.
        by: score that the fit moves for it, where that is not the one that it is checked by.
        corrected_by: edits that the last step of the fit adds some of, to take entanglements into their scores out
            (`correcting`).
        allowed: entanglement into the scores of these, as a share of what their own sliders do, that it leaves: below
            the bound, for other faces differ, and more than nothing, for part of it belongs to the edit.
        reach: effect at ±60, in standard deviations, that this step scales it down to, where scores that are bounded
            turn back before ±100; 0: as large as it was.
        caveat: what else changes.
    """

    key: str
    label: str
    hint: str
    group: str
    effect: float = 2.0
    least: float = 0.0
    longest: float = 14.0
    identity: float = 2.0
    near: float = 0.0
    along: tuple[str, ...] = ()
    by: str = ""
    scale: float = 1.0
    kept: bool = False
    shipped: bool = True
    corrected_by: tuple[str, ...] = ()
    allowed: float = 0.25
    reach: float = 0.0
    caveat: str = ""

    @property
    def fitted(self) -> str:
        """Score that the fit moves."""
        return self.by or self.key


RECIPES = (
    Recipe(
        "smile",
        "Smile",
        "+ smiles more, - looks more serious.",
        "Expression",
        kept=True,
        corrected_by=("nose_width", "skin_light"),
        allowed=0.5,
        reach=1.1,
        caveat="A strong smile also narrows the eyes and lifts the cheeks.",
    ),
    Recipe(
        "age",
        "Age",
        "+ older, - younger.",
        "Face",
        effect=2.1,
        least=1.75,
        identity=8.0,
        near=0.75,
        along=("hair_grey",),
        caveat="Hair turns grey with age.",
    ),
    Recipe(
        "yaw",
        "Turn head",
        "+ turns the head to the right of the picture, - to the left.",
        "Face",
        kept=True,
        caveat="Hair and background move along with the head.",
    ),
    Recipe(
        "glasses",
        "Glasses",
        "+ puts glasses on, - takes them off.",
        "Accessories",
        effect=1.4,
        least=1.1,
        identity=6.0,
        near=0.65,
        by="glasses_odds",
        caveat="- is for people who wear glasses; without any, it makes the eyes smaller.",
    ),
    Recipe(
        "gender",
        "Masculine or feminine",
        "+ more masculine, - more feminine.",
        "Face",
        effect=1.5,
        least=1.2,
        identity=6.0,
        near=0.65,
        corrected_by=("beard", "lips"),
        caveat="Hair length and facial hair change along with it.",
    ),
    Recipe("mouth_open", "Open mouth", "+ opens the mouth, - closes it.", "Expression", effect=2.2),
    Recipe("eyes_open", "Open eyes", "+ opens the eyes wider, - narrows them.", "Expression", effect=2.6),
    Recipe("brow_height", "Raise brows", "+ raises the brows, - lowers them.", "Expression", effect=2.6),
    Recipe("brow_slope", "Brow angle", "+ looks worried, - looks stern.", "Expression", effect=2.2),
    Recipe(
        "pitch",
        "Tilt head",
        "+ tilts the head up, - down.",
        "Face",
        effect=2.0,
        corrected_by=("brow_slope",),
    ),
    Recipe("face_width", "Face width", "+ wider face, - narrower face.", "Face", effect=2.0),
    Recipe("chin", "Chin", "+ longer chin, - shorter chin.", "Face", effect=1.8, shipped=False),
    Recipe("nose_width", "Nose width", "+ wider nose, - narrower nose.", "Face", effect=2.0),
    Recipe("jaw", "Jaw", "+ square jaw, - tapering jaw.", "Face", effect=1.8, shipped=False),
    Recipe("eye_size", "Eye width", "+ wider eyes, - narrower eyes, from corner to corner.", "Face", shipped=False),
    Recipe("nose_length", "Nose length", "+ longer nose, - shorter nose.", "Face", effect=2.2),
    Recipe(
        "lips",
        "Full lips",
        "+ fuller lips, - thinner lips.",
        "Face",
        effect=2.4,
        caveat="Strong values change skin and hair too.",
    ),
    Recipe("eye_blue", "Eye colour", "+ towards blue and grey, - towards brown.", "Colours", effect=2.2, shipped=False),
    Recipe("lipstick", "Lipstick", "+ redder lips, - paler lips.", "Colours", effect=2.4),
    Recipe("skin_light", "Skin brightness", "+ lighter skin and light, - darker.", "Colours", effect=1.8),
    Recipe(
        "skin_red", "Red or green light", "+ redder, - greener colours of the whole picture.", "Colours", effect=1.8
    ),
    Recipe("warmth", "Warm light", "+ warmer, - cooler colours of the whole picture.", "Colours", effect=1.8),
    Recipe("background", "Background", "+ brighter background, - darker background.", "Colours", effect=1.4),
    Recipe("light_side", "Side light", "+ light from the right of the picture, - from the left.", "Colours"),
    Recipe("skin_texture", "Skin texture", "+ more skin texture, - smoother skin.", "Colours", shipped=False),
    Recipe("hair_light", "Light hair", "+ lighter hair, - darker hair.", "Hair", effect=2.2),
    Recipe(
        "hair_grey",
        "Grey hair",
        "+ greyer hair, - more colour in the hair.",
        "Hair",
        effect=2.0,
        shipped=False,
        along=("age",),
        caveat="Grey hair looks lighter, and may make a face older.",
    ),
    Recipe(
        "hair_length",
        "Hair length",
        "+ longer hair beside the neck, - shorter hair.",
        "Hair",
        effect=1.6,
        shipped=False,
    ),
    Recipe("hair_red", "Red hair", "+ redder hair, - less red hair.", "Hair", shipped=False),
    Recipe(
        "fringe",
        "Fringe",
        "+ hair over the forehead, - a free forehead.",
        "Hair",
        effect=2.2,
        reach=0.71,
    ),
    Recipe("brow_dark", "Dark brows", "+ darker, fuller brows, - lighter brows.", "Hair", effect=1.8, shipped=False),
    Recipe("beard", "Beard", "+ darker chin and upper lip, up to a beard, - clean-shaven.", "Hair", effect=2.0),
)


def on_band(axis: np.ndarray, band: str, amount: float) -> np.ndarray:
    """Offset (16, 512) that moves the rows of a band, a name in `BANDS`, by an amount along an axis (512,)."""
    first, last = BANDS[band]
    offset = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
    offset[first : last + 1] = amount * axis
    return offset


def band_basis(boundaries: dict[str, Boundary]) -> dict[str, np.ndarray]:
    """Offsets (16, 512) of all basis directions by name, such as "smile.coarse", from the boundaries by attribute."""
    basis = {}
    for key, bands in ATOMS.items():
        for band in bands:
            basis[f"{key}.{band}"] = on_band(boundaries[key].normal, band, ATOM_STEP[band])
    return basis


@dataclass(frozen=True)
class StyleRecipe:
    """One local edit by a single style channel, found by `directions search`.

    Attributes:
        key: of the edit.
        label: name on the slider.
        hint: what + and - do, one sentence.
        score: what it is meant to move, a name of `scores.SCORED_BY`.
        channel: number of the style channel, rows in order, see `stylespace.channel_rows`.
        amount: what +100 adds to the channel, in its standard deviations over generated faces.
        group: heading on the page.
        caveat: what else changes.
    """

    key: str
    label: str
    hint: str
    score: str
    channel: int
    amount: float
    group: str = "Local details"
    caveat: str = ""


STYLE_RECIPES = (
    StyleRecipe("eyelids", "Eyelids", "+ eyes wide open, - closes the eyes.", "eyes_open", 3533, 5.6),
    StyleRecipe(
        "jaw_drop",
        "Drop jaw",
        "+ drops the jaw, - shuts the mouth.",
        "mouth_open",
        2755,
        6.3,
        caveat="On a broad smile, + blurs the teeth.",
    ),
    StyleRecipe(
        "brow_lift",
        "Lift brows",
        "+ lifts the brows, - brings them down.",
        "brow_height",
        3364,
        5.2,
        caveat="Lower brows are heavier and darker, too.",
    ),
    StyleRecipe("gaze", "Look sideways", "+ looks to the right of the picture, - to the left.", "gaze", 4238, -8.0),
)
"""Style channels that ship beside the fitted edits."""


@dataclass(frozen=True)
class ComponentRecipe:
    """One edit by a principal component of W on a band of rows (`ganspace`), found clean by the fit.

    Attributes:
        key: of the edit.
        label: name on the slider.
        hint: what + and - do, one sentence.
        score: what it is meant to move, a name of `scores.SCORED_BY`.
        component: number of the component, from 1.
        band: name in `BANDS`.
        amount: length that +100 adds to each row.
        group: heading on the page.
        caveat: what else changes.
    """

    key: str
    label: str
    hint: str
    score: str
    component: int
    band: str
    amount: float
    group: str = "Whole picture"
    caveat: str = ""


COMPONENT_RECIPES = (
    ComponentRecipe("tint", "Pink or green tint", "+ pinker, - greener picture.", "skin_red", 27, "fine", 3.745),
)
"""Principal components that ship beside the fitted edits."""
