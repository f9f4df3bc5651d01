"""Both trained streams as one module, the way they are saved in `streams.safetensors`."""

from torch import nn

from gra_core.models.editing import EditingStream
from gra_core.models.reconstruction import ReconstructionStream


class Streams(nn.Module):
    """Reconstruction Stream and Editing Stream; they are trained jointly."""

    def __init__(self) -> None:
        super().__init__()
        self.reconstruction = ReconstructionStream()
        self.editing = EditingStream()
