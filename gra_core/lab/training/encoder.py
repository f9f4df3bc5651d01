"""The training of the encoder.

The first steps are on generated faces with known codes only (no gradient through the generator, so they are fast), the
others on real and generated faces with picture losses through the frozen generator. Some of the real faces are pairs of
frames of clips: their codes are to differ in pose and expression, not in who it is.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import ENCODER_SIZE
from gra_core.errors import SettingsError
from gra_core.images import from_bytes
from gra_core.lab.training.backgrounds import Backgrounds, packed, person_masks, set_before, unpacked
from gra_core.lab.training.data import (
    RealFaces,
    apply_tone,
    blur_detail,
    random_flow,
    random_patch_mask,
    random_tone,
    sample_codes,
    sample_w,
)
from gra_core.lab.training.loop import FACE_NET_FILE, Job, Training
from gra_core.lab.training.losses import excess_texture, eye_difference, eye_weights, load_face_net
from gra_core.lab.training.motion import AlignedFrames
from gra_core.lab.training.perceptual import ALEXNET_FILE, load_published
from gra_core.lab.training.report import save_grid
from gra_core.lab.training.variants import edited_photos
from gra_core.models.encoder import LATENT_SAMPLES, Encoder, average_face, to_encoder_size
from gra_core.models.maps import upscale_flow, warp

LOSS_WEIGHTS = {
    "mse": 1.0,
    "l1": 0.5,
    "lpips": 3.0,
    "lpips_alex": 5.0,
    "identity": 0.6,
    "consistency": 0.3,
    "eyes": 3.0,
    "texture": 300.0,
    "code": 0.5,
    "spread": 0.05,
    "latent": 3e-3,
}
"""`consistency`: 1 - cosine of what the face net sees in the generator's pictures of two frames of a clip. `texture`:
not of clips, whose fine detail is compression. `code`: distance to the known code of generated faces. `spread`:
variance of a code over its 16 rows, which keeps it near W, where edits work (e4e, Tov et al. 2021, section 4.1).
`latent`: square of the latents, 1 for the generator's own w."""

PICTURE_SIZE = 2 * ENCODER_SIZE
"""Textures are compared at this size, too: a lattice of four pixels is one of two in what the nets see."""

GENERATED_SHARE = 0.25
"""Of each batch, faces with known codes; the rest are photos, which are what is hard."""

MOTION_SHARE = 0.25
"""Of the photos, frames of clips, if there are any."""

BACKGROUND_SHARE = 0.4
"""Share of the photos that show the person before somebody else's background, so that none is learned by heart."""

SAMPLES_CHUNK = 16


class EncoderTraining(Training):
    """Nets, data and losses of the encoder."""

    name = "encoder"

    def __init__(self, job: Job) -> None:
        super().__init__(job, partial(new_encoder, job.nets / FACE_NET_FILE))
        self.real = RealFaces(job.data, "train", PICTURE_SIZE, self.device)
        self.eyes = eye_weights(self.device)
        self.backgrounds = Backgrounds(self.real, self.person)
        self.masks = self.backgrounds.masks
        if self.stage.variants:
            variants = edited_photos(job.editor, self.real.pictures, self.stage.variants).flatten(0, 1)
            self.real.add(variants)
            self.masks = torch.cat((self.masks, self.masks_of(variants)))
        self.generated_count = max(round(GENERATED_SHARE * self.stage.batch), 1)
        photos, self.pairs, self.frames = self.stage.batch - self.generated_count, 0, None
        if self.stage.motion:
            self.pairs = max(round(MOTION_SHARE * photos / 2), 1)
            if photos <= 2 * self.pairs:
                raise SettingsError(
                    f"The batch of stage {self.stage.name} is too small for photos and frames of clips."
                )
            self.frames = AlignedFrames(job.data, PICTURE_SIZE, self.device)
            self.frame_masks = self.masks_of(self.frames.pictures)
        frames = len(self.frames.pictures) if self.frames else 0
        self.process.log(f"{len(self.real.pictures)} photos and edits of them, {frames} frames of clips")
        self.average_face = average_face(self.generator)
        if not job.init:
            w = sample_w(self.generator, LATENT_SAMPLES, truncation=1.0)
            self.module.latent_space.fit(w)
            self.average.module.latent_space.fit(w)
        self.run_generator = self.compile(self.generator.half_picture)
        self.run_faces = self.compile(self.faces.embed)
        self.run_perceptual = {"lpips": self.compile(self.perceptual)}
        if self.stage.second_perceptual:
            alex = load_published(job.nets / ALEXNET_FILE).to(self.device)
            self.run_perceptual["lpips_alex"] = self.compile(alex.to(memory_format=torch.channels_last))
        self.run_encoder = self.compile(self.module)

    def masks_of(self, pictures: Tensor) -> Tensor:
        """Where pictures (N, 3, 512, 512), uint8, show a person, (N, 1, 256, 256), packed."""
        batches = pictures.split(SAMPLES_CHUNK)
        return torch.cat([packed(person_masks(self.person, from_bytes(batch))) for batch in batches])

    def photos(self, count: int) -> Tensor:
        """Augmented real photos (count, 3, 512, 512)."""
        return self.augmented(*self.real.sample_with(count, self.masks))

    def motion_pairs(self) -> Tensor:
        """Frames of clips (2 * pairs, 3, 512, 512): one of each pair, then the other; both are augmented alike."""
        return self.augmented(*self.frames.sample_pairs(self.pairs, self.frame_masks), alike=2)

    def augmented(self, photos: Tensor, masks: Tensor, alike: int = 1) -> Tensor:
        """Photos (B, 3, 512, 512) before other backgrounds, warped, of other tones.

        Args:
            photos: to be changed.
            masks: of the people in them, (B, 1, 256, 256), packed.
            alike: so many equal parts of the batch are changed in the same way.
        """
        count, device = len(photos) // alike, self.device

        def repeated(x: Tensor) -> Tensor:
            return x.repeat(alike, *[1] * (x.dim() - 1))

        elsewhere = repeated(torch.rand(count, 1, 1, 1, device=device) < BACKGROUND_SHARE)
        kept = torch.where(elsewhere, unpacked(masks), 1.0)
        photos = set_before(photos, kept, repeated(self.backgrounds.sample(count, photos.shape[-1])))
        flow = repeated(random_flow(count, device, 0.6))
        matrix, offset = random_tone(count, device, 0.6)
        photos = apply_tone(warp(photos, upscale_flow(flow, 4)), (repeated(matrix), repeated(offset)))
        return blur_detail(photos, repeated(torch.rand(count, device=device) > 0.05))

    def generated(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Generated pictures, their codes, and whether the picture is still exactly that code's (count,)."""
        device = self.device
        codes = sample_codes(self.generator, count)
        clean = self.run_generator(codes).float().clamp(-1, 1)
        moved = warp(clean, upscale_flow(random_flow(count, device, 0.6), 4))
        changed = apply_tone(moved, random_tone(count, device, 0.6))
        mask = random_patch_mask(count, PICTURE_SIZE, device) * (torch.rand(count, 1, 1, 1, device=device) < 0.5)
        changed = torch.lerp(changed, self.photos(count), mask)
        exact = torch.rand(count, device=device) < 0.6
        return torch.where(exact[:, None, None, None], clean, changed), codes, exact

    def code_error(self, codes: Tensor, known: Tensor, exact: Tensor) -> Tensor:
        """Mean distance of codes from known ones, (K, 16, 512) each, where those hold exactly, (K,)."""
        error = F.smooth_l1_loss(codes, known, reduction="none", beta=0.2).mean((1, 2))
        return (error * exact).sum() / exact.sum().clamp_min(1)

    def likeness(self, latents: Tensor, codes: Tensor, picture: Tensor, photo: Tensor) -> dict[str, Tensor]:
        """Losses of latents and their codes (B, 16, 512), their pictures and the photos (B, 3, 512, 512).

        The last ones are the frames of clips.
        """
        sharp = slice(len(photo) - 2 * self.pairs)
        texture = excess_texture(picture[sharp], photo[sharp])
        picture, photo = to_encoder_size(picture), to_encoder_size(photo)
        terms = {"mse": F.mse_loss(picture, photo), "l1": F.l1_loss(picture, photo)}
        terms |= {name: net(picture, photo).mean() for name, net in self.run_perceptual.items()}
        with torch.no_grad():
            wanted = self.run_faces(photo)
        found = self.run_faces(picture)
        terms["identity"] = 1 - (found * wanted).sum(1).mean()
        if self.pairs:
            first, second = found[sharp.stop :].chunk(2)
            terms["consistency"] = 1 - (first * second).sum(1).mean()
        terms["eyes"] = eye_difference(picture - photo, self.eyes).mean()
        terms["texture"] = texture + excess_texture(picture[sharp], photo[sharp])
        terms["latent"] = latents.square().mean()
        terms["spread"] = (codes - codes.mean(1, keepdim=True)).square().mean()
        return terms

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh part of a batch."""
        batch, regression_only = self.stage.batch, step < self.stage.regression_steps
        chunk = self.generated_count
        with torch.no_grad():
            if regression_only:
                parts = [self.generated(chunk) for _ in range(batch // chunk)]
                photo, known, exact = (torch.cat(part) for part in zip(*parts, strict=True))
            else:
                photo, known, exact = self.generated(chunk)
                photo = torch.cat((photo, self.photos(batch - chunk - 2 * self.pairs)))
                if self.pairs:
                    photo = torch.cat((photo, self.motion_pairs()))
        small = to_encoder_size(photo)
        latents = self.run_encoder(small, self.average_face.expand_as(small)).float()
        codes = self.module.latent_space(latents)
        terms = {"code": self.code_error(codes[: len(known)], known, exact)}
        if not regression_only:
            terms |= self.likeness(latents, codes, self.run_generator(codes).float(), photo)
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    @torch.no_grad()
    def report(self) -> None:
        """Held-out figures of the averaged encoder; grid: photo, picture of its code."""
        encoder = self.average.module
        photos = from_bytes(RealFaces(self.job.data, "val", ENCODER_SIZE, self.device).pictures)
        rows, sums = [], torch.zeros(3, device=self.device)
        for batch in photos.split(8):
            codes = encoder.latent_space(encoder(batch, self.average_face.expand_as(batch)))
            picture = self.generator.small_picture(codes).clamp(-1, 1)
            sums += self.distances(picture, batch)
            rows.append(torch.stack((batch, picture), 1))
        mse, perceptual, identity = (sums / len(photos)).tolist()
        print(f"held-out: mse {mse:.4f} st-lpips {perceptual:.4f} identity {identity:.4f}", flush=True)
        save_grid(torch.cat(rows)[:24], self.job.out / "encoder.jpg", columns=4)


def new_encoder(face_net: Path) -> Encoder:
    """An untrained encoder with the trained face net in it."""
    encoder = Encoder()
    encoder.face.load_state_dict(load_face_net(face_net).state_dict())
    return encoder
