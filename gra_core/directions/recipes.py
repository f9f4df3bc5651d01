"""The fitted edits as data: what the page says of each, and what the fit aims at.

`fit` makes them from atoms: each attribute's boundary in W, on each of a few bands of rows of the W+ code, whose
effects were measured (`response`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gra_core.constants import NUM_STYLES, STYLE_DIM
from gra_core.directions.boundaries import Boundary

BANDS = {"coarse": (0, 3), "middle": (4, 7), "fine": (8, 15)}
"""First and last rows of the bands: up to 16 px (shape and pose), 32 to 64 px (features), 128 to 1024 px (colour)."""

ATOM_STEP = {"coarse": 5.0, "middle": 5.0, "fine": 6.0}
"""How far an atom moves each of its rows along the boundary's normal when its effect is measured."""

_SHAPE, _COLOUR, _ALL = ("coarse", "middle"), ("middle", "fine"), tuple(BANDS)

ATOMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("smile", "yaw", "glasses", "mouth_open", "surprise", "angry", "sad", "eyes_open"), _SHAPE),
    **dict.fromkeys(("eye_size", "brow_height", "brow_slope", "pitch", "face_width", "jaw", "chin"), _SHAPE),
    **dict.fromkeys(("nose_width", "nose_length", "lips", "hair_length", "fringe"), _SHAPE),
    **dict.fromkeys(("age", "gender", "brow_dark", "beard"), _ALL),
    **dict.fromkeys(("eye_blue", "lipstick", "hair_light", "hair_grey", "hair_red", "skin_light"), _COLOUR),
    **dict.fromkeys(("skin_red", "skin_texture", "light_side", "warmth", "background"), _COLOUR),
}
"""Bands on which each attribute's boundary is an atom."""


@dataclass(frozen=True)
class Recipe:
    """One edit.

    Attributes:
        key: of the edit, and of the attribute that it moves.
        label: name on the slider.
        hint: what + and - do, one sentence.
        group: heading on the page.
        effect: what +100 is to add to the score, in standard deviations of the score over generated faces.
        longest: length of the offset in W+ that +100 does not exceed, whatever `effect` asks for.
        scale: what the offset is multiplied by at the end: below 1 where the check found that ±100 moved the person too
            far, or moved the score no more.
        trim: what is added of other edits at the end, by key, against leaks that the check found; before `scale`.
        kept: whether the offset of the file that the fit starts from is shipped as it is.
        shipped: whether the edit passed the check; others are fitted only so that their scores are held.
        along: scores that may move along; the caveat says so.
        caveat: what else changes.
    """

    key: str
    label: str
    hint: str
    group: str
    effect: float = 2.0
    longest: float = 12.0
    along: tuple[str, ...] = ()
    scale: float = 1.0
    trim: Mapping[str, float] = field(default_factory=dict)
    kept: bool = False
    shipped: bool = True
    caveat: str = ""


IGNORED = ("surprise", "angry", "sad", "light_side", "eye_size", "jaw", "skin_texture", "hair_red")
"""Attributes that no shipped edit moves, their leaks therefore not held down; their boundaries serve as atoms."""

GIVEN_UP = ("nose_width",)
"""Edits measured at first and then given up: a smile widens the nose more than any slider for it should."""

RECIPES = (
    Recipe(
        "smile",
        "Smile",
        "+ smiles more, - looks more serious.",
        "Expression",
        kept=True,
        caveat="A strong smile also narrows the eyes and lifts the cheeks.",
    ),
    Recipe(
        "age",
        "Age",
        "+ older, - younger.",
        "Face",
        kept=True,
        along=("hair_grey", "hair_light"),
        caveat="Hair turns grey with age; below -80 most faces become small children.",
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
        "+ puts glasses on, - takes glasses off.",
        "Accessories",
        kept=True,
        caveat="- is for people who wear glasses; without any, it makes the eyes smaller.",
    ),
    Recipe(
        "gender",
        "Masculine or feminine",
        "+ more masculine, - more feminine.",
        "Face",
        kept=True,
        caveat="Hair length and facial hair change along with it.",
    ),
    Recipe("mouth_open", "Open mouth", "+ opens the mouth, - closes it.", "Expression", effect=2.2),
    Recipe("eyes_open", "Open eyes", "+ opens the eyes wider, - narrows them.", "Expression", effect=2.6),
    Recipe("brow_height", "Raise brows", "+ raises the brows, - lowers them.", "Expression", effect=2.6, scale=0.85),
    Recipe("brow_slope", "Brow angle", "+ looks worried, - looks stern.", "Expression", effect=2.2),
    Recipe(
        "pitch",
        "Tilt head",
        "+ tilts the head up, - down.",
        "Face",
        effect=2.0,
        trim={"brow_slope": -0.4, "smile": 0.25},
    ),
    Recipe("face_width", "Face width", "+ wider face, - narrower face.", "Face", effect=2.0),
    Recipe("chin", "Chin", "+ longer chin, - shorter chin.", "Face", effect=1.8, shipped=False),
    Recipe("nose_width", "Nose width", "+ wider nose, - narrower nose.", "Face", effect=2.2),
    Recipe("nose_length", "Nose length", "+ longer nose, - shorter nose.", "Face", effect=2.2),
    Recipe(
        "lips",
        "Full lips",
        "+ fuller lips, - thinner lips.",
        "Face",
        effect=2.4,
        trim={"smile": 0.3},
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
    Recipe("hair_light", "Light hair", "+ lighter hair, - darker hair.", "Hair", effect=2.2),
    Recipe(
        "hair_grey",
        "Grey hair",
        "+ greyer hair, - more colour in the hair.",
        "Hair",
        effect=2.0,
        shipped=False,
        along=("age", "hair_light"),
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
    Recipe("fringe", "Fringe", "+ hair over the forehead, - a free forehead.", "Hair", effect=2.2),
    Recipe("brow_dark", "Dark brows", "+ darker, fuller brows, - lighter brows.", "Hair", effect=1.8, shipped=False),
    Recipe("beard", "Beard", "+ darker chin and upper lip, up to a beard, - clean-shaven.", "Hair", effect=2.0),
)


def band_atoms(boundaries: dict[str, Boundary]) -> dict[str, np.ndarray]:
    """Offsets (16, 512) of all atoms by name, such as "smile.coarse", from the boundaries by attribute."""
    atoms = {}
    for key, bands in ATOMS.items():
        for band in bands:
            first, last = BANDS[band]
            offset = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
            offset[first : last + 1] = ATOM_STEP[band] * boundaries[key].normal
            atoms[f"{key}.{band}"] = offset
    return atoms


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
    StyleRecipe("eyelids", "Eyelids", "+ eyes wide open, - closes the eyes.", "eyes_open", 3533, 9.0),
    StyleRecipe(
        "jaw_drop",
        "Drop jaw",
        "+ drops the jaw, - shuts the mouth.",
        "mouth_open",
        2755,
        9.0,
        caveat="On a broad smile, + blurs the teeth.",
    ),
    StyleRecipe("brow_lift", "Lift brows", "+ lifts the brows, - brings them down.", "brow_height", 3364, 8.5),
)
"""Style channels that ship beside the fitted edits."""
