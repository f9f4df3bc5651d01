"""Parts of an aligned face that local edits are looked for in, marked out by its landmarks."""

import numpy as np
from PIL import Image, ImageDraw

from gra_core.lab.directions.appearance import Portrait

REGION_SIZE = 64
"""Side of the masks."""

REGIONS = ("mouth", "eyes", "brows", "nose", "chin", "cheeks", "ears", "hair", "clothes", "background")
"""They do not overlap, and together they cover the picture."""

SURE = 0.5
"""Certainty of the person mask from which a pixel counts as the person."""


def face_regions(face: Portrait, person: np.ndarray) -> np.ndarray:
    """Masks (len(REGIONS), 64, 64), bool, of a face and the certainty (H, W) in (0, 1) that a pixel shows the person.

    Each pixel belongs to the first region of this order that claims it: mouth, eyes, brows, nose, chin, cheeks, ears,
    then clothes, hair and background by the person mask.
    """
    points, unit = face.points, face.unit
    scale = REGION_SIZE / face.pixels.shape[0]

    def drawn(*polygons: np.ndarray, width: float = 0.0) -> np.ndarray:
        mask = Image.new("1", (REGION_SIZE, REGION_SIZE))
        draw = ImageDraw.Draw(mask)
        for polygon in polygons:
            line = [tuple(p) for p in (polygon * scale).tolist()]
            draw.polygon(line, fill=1)
            draw.line([*line, line[0]], fill=1, width=max(round(width * unit * scale), 1))
        return np.asarray(mask)

    jaw, brows = points[0:17], points[17:27]
    forehead = brows[::-1] - (0, 0.55 * unit)
    below = points[3:14]
    mouth_line = np.stack([points[2] * 0.4 + points[31] * 0.6, points[14] * 0.4 + points[35] * 0.6])
    corners = np.array([(0, -0.35), (0.3, -0.35), (0.3, 0.5), (0, 0.5)]) * unit
    ears = [points[1] + corners * (-1, 1), points[15] + corners]
    wanted = {
        "mouth": drawn(points[48:60], width=0.06),
        "eyes": drawn(points[36:42], points[42:48], width=0.2),
        "brows": drawn(points[17:22], points[22:27], width=0.14),
        "nose": drawn(points[[27, 31, 33, 35]], width=0.1),
        "chin": drawn(np.concatenate([mouth_line, below[::-1]])),
        "cheeks": drawn(np.concatenate([jaw, forehead])),
        "ears": drawn(*ears),
    }
    shown = np.asarray(Image.fromarray(person.astype(np.float32)).resize((REGION_SIZE, REGION_SIZE))) > SURE
    rows = np.arange(REGION_SIZE)[:, None] >= (points[8, 1] - 0.1 * unit) * scale
    columns = np.arange(REGION_SIZE)[None, :]
    under = rows & (np.abs(columns - points[8, 0] * scale) < 3 * unit * scale)
    wanted |= {"clothes": shown & under, "hair": shown, "background": ~shown}
    free = np.ones((REGION_SIZE, REGION_SIZE), bool)
    masks = {}
    for name, mask in wanted.items():
        masks[name] = mask & free
        free &= ~mask
    return np.stack([masks[name] for name in REGIONS])
