"""A gate for new weights: what edits of the example faces do, as pixels tell it.

The figures are those of the weights that ship, and may get worse by a tenth. Whoever ships better weights writes the
new figures down.
"""

import numpy as np
import pytest
import torch

from gra_core.alignment import FaceAligner
from gra_core.images import image_to_tensor, load_image
from gra_core.models.background import NOBODY
from gra_core.models.encoder import to_encoder_size
from gra_core.ui.examples import example_files

WORSE = 1.1
FEATURES_ALONE = 0.0027
"""Mean square error, without an edit, of what the features alone bring back, pictures in [-1, 1] at 256 px."""
CHANGE = {"smile": 5.9, "age": 11.4, "yaw": 25.9}
"""Mean absolute change of the person at +60, in levels."""
BACKGROUND = {"smile": 0.98, "age": 2.9, "yaw": 13.2}
"""Mean absolute change, in levels, of what is background before and after. Turns warp a busy background."""


@pytest.fixture(scope="module")
def faces(editor):
    aligner = FaceAligner()
    pictures = [aligner.align_photo(load_image(file)).image for file in example_files()]
    return [(to_encoder_size(image_to_tensor(picture)), editor.invert(picture)) for picture in pictures]


@torch.inference_mode()
def test_features_alone_bring_back_the_photo(faces):
    errors = [(inversion.source.image - photo).square().mean().item() for photo, inversion in faces]
    assert np.mean(errors) < WORSE * FEATURES_ALONE


@torch.inference_mode()
@pytest.mark.parametrize("key", CHANGE)
def test_edits_change_the_person_and_not_the_background(editor, faces, key):
    changes, drifts = [], []
    for photo, inversion in faces:
        edited = to_encoder_size(image_to_tensor(editor.edit(inversion, {key: 60})))
        before, after = (editor.person(picture) for picture in (photo, edited))
        difference = 127.5 * (edited - photo).abs().mean(1, keepdim=True)
        changes.append(difference[before > NOBODY].mean().item())
        drifts.append(difference[torch.maximum(before, after) < NOBODY].mean().item())
    assert np.mean(changes) > CHANGE[key] / WORSE
    assert np.mean(drifts) < WORSE * BACKGROUND[key]
