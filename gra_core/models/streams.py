"""Both trained streams as one module, the way they are saved in `streams.safetensors`."""

from collections.abc import Mapping

from torch import nn

from gra_core.models.editing import EditingStream
from gra_core.models.generator import FEATURE_CHANNELS
from gra_core.models.layers import StreamsDesign
from gra_core.models.reconstruction import ReconstructionStream

DESIGNS = {
    "gra": StreamsDesign(),
    "gradual_dense": StreamsDesign(alignment="dense"),
    "gradual_unaligned": StreamsDesign(alignment="none"),
    "one_shot": StreamsDesign(stages=(64,), alignment="none", pixels=False),
}
"""The method and what it is compared with. `one_shot` is HFGI's way (Wang et al., CVPR 2022,
https://arxiv.org/abs/2109.06590) without its alignment: all residuals at one stage and at once."""


class Streams(nn.Module):
    """Reconstruction Stream and Editing Stream; they are trained jointly."""

    def __init__(self, design: StreamsDesign | None = None, channels: Mapping[int, int] = FEATURE_CHANNELS) -> None:
        """`channels`: of the generator's feature by side in pixels."""
        super().__init__()
        self.design = design or StreamsDesign()
        self.reconstruction = ReconstructionStream(self.design, channels)
        self.editing = EditingStream(self.design, channels)
