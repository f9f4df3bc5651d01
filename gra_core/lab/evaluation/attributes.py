"""What an edit did: the attribute it is named after, and the background it should have left alone.

A method that edits weakly keeps identity and background for free, so each is read beside how far the attribute moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gra_core.images import image_to_tensor
from gra_core.lab.directions.fit import load_probe
from gra_core.lab.directions.person import PersonMask
from gra_core.lab.directions.scores import SCORE_SIZE, SCORES, FaceScorer, attribute_scores
from gra_core.metrics.perceptual import LPIPS
from gra_core.metrics.pixels import resize

PERSON_MARGIN = 9
"""The person's mask is widened by half of this, in pixels of 256."""


@dataclass(frozen=True, eq=False)
class Background:
    """A portrait (1, 3, 256, 256) whose background results are compared with, and its person mask (1, 1, 256, 256)."""

    picture: Tensor
    person: Tensor


class AttributeMeter:
    """Measures pictures of aligned faces with nets that no method was trained with.

    Args:
        nets: folder that holds, at any depth, the files that `gra_core.lab.directions.scores` and
            `gra_core.lab.directions.person` name.

    Raises:
        CheckpointError: a file or package is missing.
    """

    def __init__(self, nets: Path) -> None:
        self._scorer = FaceScorer(nets, load_probe())
        self._person = PersonMask(nets)

    def scores(self, picture: Image.Image) -> dict[str, float]:
        """Scores by name (`gra_core.lab.directions.scores.SCORES`): smile in log odds, age in years, ..."""
        small = picture.resize((SCORE_SIZE, SCORE_SIZE), Image.Resampling.BOX)
        return dict(zip(SCORES, attribute_scores(self._scorer(np.asarray(small)[None]))[0].tolist(), strict=True))

    def person(self, picture: Tensor) -> Tensor:
        """Where the person is, (1, 1, 256, 256), 0 or 1; picture (1, 3, 256, 256) in [-1, 1]."""
        mask = torch.from_numpy(self._person(picture.cpu().numpy()))
        return F.max_pool2d((mask > 0.5).float(), PERSON_MARGIN, 1, PERSON_MARGIN // 2)

    def background(self, portrait: Image.Image) -> Background:
        """What results are compared with by `background_lpips`, once per portrait."""
        picture = resize(image_to_tensor(portrait), SCORE_SIZE)
        return Background(picture, self.person(picture))

    def background_lpips(self, result: Image.Image, source: Background, lpips: LPIPS) -> float:
        """LPIPS at 256 px between portrait and result, where neither shows the person; the rest counts as equal."""
        small = resize(image_to_tensor(result), SCORE_SIZE)
        person = torch.maximum(self.person(small), source.person)
        device = lpips.shift.device
        with torch.inference_mode():
            return lpips(torch.lerp(small, source.picture, person).to(device), source.picture.to(device)).item()
