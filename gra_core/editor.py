"""The editor: invert a photo once, then edit it as often as you like.

>>> editor = PortraitEditor.from_pretrained()
>>> inversion = editor.invert(aligned_face)            # encoder, Reconstruction Stream, once
>>> smiling = editor.edit(inversion, {"smile": 60})    # Editing Stream only
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gra_core import checkpoints
from gra_core.checkpoints import CheckpointSource
from gra_core.compositing import EditOutput
from gra_core.constants import IMAGE_SIZE, MAX_STRENGTH
from gra_core.directions.registry import (
    GLASSES,
    EditDirection,
    edit_offset,
    glasses_thinned,
    load_directions,
    load_glasses_probe,
    preserved,
    turning,
)
from gra_core.images import image_to_tensor, tensor_to_image
from gra_core.memory import keep_freed_memory
from gra_core.models.background import Background, composite, estimate_background
from gra_core.models.editing import AlignmentSource, Edit
from gra_core.models.encoder import CodeEstimator, Encoder, to_encoder_size
from gra_core.models.generator import Generator, GeneratorInterface
from gra_core.models.glasses import GlassesProbe, strengths_to_agree
from gra_core.models.maps import upscale
from gra_core.models.person import PersonNet
from gra_core.models.photo_warp import PhotoWarp, warp_photo
from gra_core.models.streams import Streams

TURNS_FROM = 20.0
"""Strength of a turn from which on the outline of the person is taken for what it was, moved."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """All that an edit needs to know of one photo. Immutable; keep it as long as the photo is being edited.

    Attributes:
        codes: W+ code, (1, 16, 512).
        source: residuals, comparison keys and fine detail of the photo.
        photo_warp: the photo itself; None for streams that find no correspondence.
        background: what is behind the person; None of an editor without a person net.
        glasses: strength of the edit for glasses that is in the codes already, for them to agree with the photo.
    """

    codes: Tensor
    source: AlignmentSource
    photo_warp: PhotoWarp | None
    background: Background | None
    glasses: float = 0.0


class PortraitEditor:
    """All nets with their weights. Holds no state of any photo; safe to share."""

    def __init__(
        self,
        generator: GeneratorInterface,
        encoder: Encoder,
        streams: Streams,
        person: PersonNet | None,
        edits: Mapping[str, EditDirection],
        glasses: GlassesProbe | None = None,
    ) -> None:
        """Assemble the editor from loaded parts, all on one device. Most callers want `from_pretrained`.

        Without a person net edits are left as they come from the Editing Stream, without a probe for glasses codes as
        they come from the encoder.
        """
        self.generator, self.encoder = generator, encoder
        self.streams, self.person = streams, person
        self.estimate_codes = CodeEstimator(generator, encoder)
        self.edits, self.glasses = dict(edits), glasses if GLASSES in edits else None
        self.device = generator.mean_w.device

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, device: str | torch.device | None = None) -> Self:
        """Load the weights.

        Args:
            source: folder or Hub repository of the weights; None means `checkpoints/`, then `GRA_HUB_REPO`.
            device: "cpu", "cuda", ...; None means a GPU if there is one.

        Raises:
            CheckpointError: A weights file is missing, damaged, or does not fit.
        """
        files = CheckpointSource(source)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        directions = files.path(checkpoints.DIRECTIONS)
        edits, weights = load_directions(directions), load_glasses_probe(directions)
        generator = files.load(checkpoints.GENERATOR, Generator())
        encoder = files.load(checkpoints.ENCODER, Encoder())
        streams = files.load_streams()
        person = files.load(checkpoints.PERSON, PersonNet())
        if torch.device(device).type == "cpu":
            keep_freed_memory()
        layout = torch.channels_last
        parts = (part.to(memory_format=layout).to(device) for part in (generator, encoder, streams, person))
        return cls(*parts, edits, GlassesProbe.of(weights, device))

    @property
    def nets(self) -> tuple[nn.Module | None, ...]:
        """All nets, in the order in which they are given."""
        return self.generator, self.encoder, self.streams, self.person

    @torch.inference_mode()
    def invert(self, aligned: Image.Image, pause: Callable[[], None] = lambda: None) -> Inversion:
        """Invert an aligned face: code, Reconstruction Stream, Editing Stream once without an edit, clean plate.

        Args:
            aligned: FFHQ-aligned face, RGB, 1024 px; other sizes are resized.
            pause: called between two nets, each of which takes about as long as an edit: other work may go first.
        """
        image = aligned.convert("RGB")
        if image.size != (IMAGE_SIZE, IMAGE_SIZE):
            image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
        photo = image_to_tensor(image).to(self.device)
        background = None if self.person is None else estimate_background(self.person, photo)
        pause()
        codes, source, glasses = self._invert(photo, pause)
        pause()
        moves = self.person is not None and self.streams.design.alignment != "none"
        photo_warp = PhotoWarp.of(photo, source) if moves else None
        return Inversion(codes, source, photo_warp, background, glasses.item())

    def invert_batch(self, photos: Tensor) -> tuple[Tensor, AlignmentSource]:
        """As `invert` for (B, 3, 1024, 1024) in [-1, 1] on the editor's device: codes (B, 16, 512) and source."""
        codes, source, _ = self._invert(photos, lambda: None)
        return codes, source

    def _invert(self, photos: Tensor, pause: Callable[[], None]) -> tuple[Tensor, AlignmentSource, Tensor]:
        """Codes, source, and the strength of the edit for glasses that is in the codes, (B,)."""
        small = to_encoder_size(photos)
        codes = self.estimate_codes(small)
        glasses = photos.new_zeros(len(photos))
        if self.glasses is not None:
            glasses = strengths_to_agree(self.glasses, small, self.generator.small_picture(codes))
            offset = glasses[:, None, None] / MAX_STRENGTH * torch.tensor(self.edits[GLASSES].vector).to(codes)
            codes = codes + offset
        pause()
        residuals = self.streams.reconstruction.residuals(self.generator, codes, photos)
        pause()
        return codes, self.streams.editing.prepare(self.generator, codes, photos, residuals), glasses

    @torch.inference_mode()
    def edit(
        self,
        inversion: Inversion,
        strengths: Mapping[str, float],
        edits: Mapping[str, EditDirection] | None = None,
    ) -> Image.Image:
        """The picture of `render`."""
        return self.render(inversion, strengths, edits).image

    @torch.inference_mode()
    def render(
        self,
        inversion: Inversion,
        strengths: Mapping[str, float],
        edits: Mapping[str, EditDirection] | None = None,
    ) -> EditOutput:
        """Render an edit: the Editing Stream once, and the background where that uncovers it.

        Args:
            inversion: of the photo.
            strengths: slider values by edit key, within each slider's range; missing keys and 0 change nothing.
                Empty: the reconstruction.
            edits: the edits to choose from, by key, such as a visitor's own beside `self.edits`, the default.

        Returns:
            RGB picture, 1024 x 1024, and what `compositing.compose` needs to draw it on the photo.

        Raises:
            UnknownEditError: A key is not in `edits`.
            StrengthError: A value is not a number or out of range.
        """
        codes = self.edited_codes(inversion, strengths, edits)
        edit = self.streams.editing(self.generator, codes, inversion.source)
        edit = self.finish(edit, inversion, strengths, edits)
        finest = max(edit.flows)
        flow, keep = (x[0].float().permute(1, 2, 0).cpu().numpy() for x in (edit.flows[finest] / finest, edit.keep))
        return EditOutput(tensor_to_image(edit.picture), flow, keep[..., 0])

    def finish(
        self,
        edit: Edit,
        inversion: Inversion,
        strengths: Mapping[str, float],
        edits: Mapping[str, EditDirection] | None = None,
    ) -> Edit:
        """The edit as the page shows it: photo warp and background fill after the Editing Stream."""
        edits = self.edits if edits is None else edits
        keep = torch.from_numpy(preserved(edits, strengths)).to(edit.keep)[None, None]
        keep = upscale(keep, edit.keep.shape[-1] // keep.shape[-1])
        if inversion.photo_warp is not None:
            edit = warp_photo(edit, inversion.source, inversion.photo_warp, preserve=keep)
        if inversion.background is None:
            return edit
        turned = min(turning(edits, strengths) / TURNS_FROM, 1.0)
        return composite(self.person, edit, inversion.background, turned=turned * keep)

    @torch.inference_mode()
    def low_rate(
        self,
        inversion: Inversion,
        strengths: Mapping[str, float] | None = None,
        edits: Mapping[str, EditDirection] | None = None,
    ) -> Image.Image:
        """The generator's picture of the (edited) code, without residuals; for comparison. As `edit`."""
        return tensor_to_image(self.generator(self.edited_codes(inversion, strengths or {}, edits, alone=True)))

    @property
    def average_code(self) -> np.ndarray:
        """Code of the average face, (512,) float32."""
        return self.generator.mean_w.float().cpu().numpy()

    def edited_codes(
        self,
        inversion: Inversion,
        strengths: Mapping[str, float],
        edits: Mapping[str, EditDirection] | None = None,
        *,
        alone: bool = False,
    ) -> Tensor:
        """The photo's W+ code after an edit, (1, 16, 512), for the Editing Stream; as `edit`.

        `alone`: for the generator without residuals: as far as the sliders say.
        """
        codes, edits = inversion.codes, self.edits if edits is None else edits
        code = codes[0].float().cpu().numpy()
        offset = edit_offset(edits, strengths, code, gained=not alone)
        glasses, wanted = inversion.glasses, strengths.get(GLASSES, 0.0)
        if glasses > 0 and not alone:
            lost = glasses * glasses_thinned(edits, strengths)
            offset = offset + edit_offset(self.edits, {GLASSES: lost})
            glasses += lost
        if wanted * glasses < 0:  # what makes the code agree with the photo is not in the way of the opposite
            back = min(abs(wanted), abs(glasses))
            offset = offset + edit_offset(self.edits, {GLASSES: float(np.copysign(back, wanted))})
        return codes + torch.from_numpy(offset).to(self.device, codes.dtype)
