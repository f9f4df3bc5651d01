"""Another generator in place of the real one: small and random, it takes part in everything."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gra_core.constants import IMAGE_SIZE, NUM_STYLES, STYLE_DIM
from gra_core.directions.registry import EditDirection
from gra_core.editor import PortraitEditor
from gra_core.images import tensor_to_image
from gra_core.models.encoder import Encoder
from gra_core.models.streams import Streams


class TinyGenerator(nn.Module):
    """Four channels at each size, each made brighter or darker by its row of the code."""

    channels = dict.fromkeys((8, 16, 32, 64, 128, 256), 4)

    def __init__(self):
        super().__init__()
        self.mapping = nn.Linear(STYLE_DIM, STYLE_DIM)
        self.register_buffer("mean_w", torch.zeros(STYLE_DIM))
        self.start = nn.Parameter(torch.randn(1, 4, 8, 8))
        self.styles = nn.ModuleList(nn.Linear(STYLE_DIM, 4) for _ in self.channels)
        self.to_rgb = nn.Conv2d(4, 3, 1)

    def feature(self, codes, resolution, hook=None):
        x = self.start.expand(len(codes), -1, -1, -1)
        for row, (side, style) in enumerate(zip(self.channels, self.styles, strict=True)):
            if side <= resolution:
                x = F.interpolate(x, size=side, mode="bilinear") + style(codes[:, row])[..., None, None]
                x = x if hook is None else hook(side, x)
        return x

    def picture_from(self, feature, _codes):
        return torch.tanh(self.to_rgb(F.interpolate(feature, size=IMAGE_SIZE, mode="bilinear")))

    def forward(self, codes, hook=None):
        return self.picture_from(self.feature(codes, max(self.channels), hook), codes)

    render = forward

    def small_picture(self, codes):
        return F.avg_pool2d(self(codes), 4)


@pytest.fixture(scope="module")
def tiny_editor():
    torch.manual_seed(0)
    generator = TinyGenerator()
    vector = np.zeros((NUM_STYLES, STYLE_DIM), np.float32)
    vector[2] = np.random.default_rng(0).normal(size=STYLE_DIM)
    edits = {"brighter": EditDirection("brighter", "Brighter", "", -100, 100, vector)}
    parts = (part.eval().requires_grad_(False) for part in (generator, Encoder(), Streams(channels=generator.channels)))
    return PortraitEditor(*parts, None, edits)


def test_without_an_edit_the_picture_is_the_photo(tiny_editor, face):
    photo = face.resize((IMAGE_SIZE, IMAGE_SIZE))
    result = tiny_editor.edit(tiny_editor.invert(photo), {})
    assert np.abs(np.asarray(result, int) - np.asarray(photo, int)).max() <= 1


def test_an_edit_changes_the_picture_and_the_code_alone_is_the_generators(tiny_editor, face):
    inversion = tiny_editor.invert(face)
    plain, edited = (tiny_editor.edit(inversion, {"brighter": value}) for value in (0, 80))
    assert np.abs(np.asarray(edited, int) - np.asarray(plain, int)).mean() > 1
    expected = tensor_to_image(tiny_editor.generator(inversion.codes))
    assert tiny_editor.low_rate(inversion).tobytes() == expected.tobytes()
