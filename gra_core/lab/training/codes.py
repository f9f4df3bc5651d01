"""What finding codes is learned from: pictures with codes to be found, and losses."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gra_core.constants import ENCODER_SIZE, NUM_STYLES, STYLE_DIM
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
)
from gra_core.lab.training.loop import Training
from gra_core.lab.training.losses import excess_texture, eye_difference, eye_weights
from gra_core.lab.training.perceptual import ShiftTolerantAlexNet, load_published
from gra_core.lab.training.report import save_grid
from gra_core.lab.training.variants import add_variant_options, edited_photos
from gra_core.models.encoder import LatentSpace, to_encoder_size
from gra_core.models.maps import upscale_flow, warp

LOSS_WEIGHTS = {
    "mse": 1.0,
    "l1": 0.5,
    "lpips": 3.0,
    "lpips_alex": 5.0,
    "identity": 0.6,
    "eyes": 3.0,
    "texture": 300.0,
    "code": 0.5,
    "spread": 0.05,
    "latent": 3e-3,
}
"""`code`: distance to the known code of generated faces. `spread`: variance of a code over its 16 rows, which keeps it
near W, where edits work (e4e, Tov et al. 2021, section 4.1). `latent`: square of the latents, 1 for the generator's own
w."""

PICTURE_SIZE = 2 * ENCODER_SIZE
"""Textures are compared at this size, too: a lattice of four pixels is one of two in what the nets see."""

GENERATED_SHARE = 0.25
"""Of each batch, faces with known codes; the rest are photos, which are what is hard."""

BACKGROUND_SHARE = 0.4
"""Share of the photos that show the person before somebody else's background, so that none is learned by heart."""


def add_code_options(options: argparse.ArgumentParser) -> None:
    """Options beyond those of all training."""
    options.add_argument("--perceptual-alex", type=Path, help="alex_shift_tolerant.pth: a second perceptual loss")
    add_variant_options(options)


class CodeTraining(Training):
    """Frozen nets, data and losses of what finds codes. Subclasses set `latent_space`."""

    latent_space: LatentSpace

    def __init__(self, args: argparse.Namespace, make: Callable[[], nn.Module]) -> None:
        super().__init__(args, make)
        self.real = RealFaces(args.data, PICTURE_SIZE, self.device)
        self.eyes = eye_weights(self.device)
        self.backgrounds = Backgrounds(self.real, self.person)
        self.masks = self.backgrounds.masks
        if args.variants:
            variants = edited_photos(args.editor, self.real.pictures, args.variants).flatten(0, 1)
            self.real.add(variants)
            masks = [packed(person_masks(self.person, from_bytes(batch))) for batch in variants.split(16)]
            self.masks = torch.cat((self.masks, *masks))
        self.process.log(f"{len(self.real.pictures)} photos and variants")
        self.run_generator = self.compile(self.generator.half_picture)
        self.run_faces = self.compile(self.faces.embed)
        self.run_perceptual = {"lpips": self.compile(self.perceptual)}
        if args.perceptual_alex:
            alex = load_published(ShiftTolerantAlexNet(), args.perceptual_alex).to(self.device)
            self.run_perceptual["lpips_alex"] = self.compile(alex.to(memory_format=torch.channels_last))

    def photos(self, count: int) -> Tensor:
        """Augmented real photos (count, 3, 512, 512)."""
        device = self.device
        photos, masks = self.real.sample_with(count, self.masks)
        elsewhere = torch.rand(count, 1, 1, 1, device=device) < BACKGROUND_SHARE
        kept = torch.where(elsewhere, unpacked(masks), 1.0)
        photos = set_before(photos, kept, self.backgrounds.sample(count, photos.shape[-1]))
        flow = random_flow(count, device, 0.6)
        photos = apply_tone(warp(photos, upscale_flow(flow, 4)), random_tone(count, device, 0.6))
        return blur_detail(photos, torch.rand(count, device=device) > 0.05)

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

    def fresh(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (count, 3, 512, 512), generated ones first; the codes of those, and whether they hold exactly."""
        generated = round(GENERATED_SHARE * count)
        if not generated:
            nothing = torch.zeros(0, NUM_STYLES, STYLE_DIM, device=self.device)
            return self.photos(count), nothing, nothing[:, 0, 0]
        pictures, known, exact = self.generated(generated)
        return torch.cat((pictures, self.photos(count - generated))), known, exact

    def code_error(self, codes: Tensor, known: Tensor, exact: Tensor) -> Tensor:
        """Mean distance of codes from known ones, (K, 16, 512) each, where those hold exactly, (K,)."""
        error = F.smooth_l1_loss(codes, known, reduction="none", beta=0.2).mean((1, 2))
        return (error * exact).sum() / exact.sum().clamp_min(1)

    def likeness(self, latents: Tensor, codes: Tensor, picture: Tensor, photo: Tensor) -> dict[str, Tensor]:
        """Losses of latents and their codes (B, 16, 512), their pictures and the photos (B, 3, 512, 512)."""
        texture = excess_texture(picture, photo)
        picture, photo = to_encoder_size(picture), to_encoder_size(photo)
        terms = {"mse": F.mse_loss(picture, photo), "l1": F.l1_loss(picture, photo)}
        terms |= {name: net(picture, photo).mean() for name, net in self.run_perceptual.items()}
        with torch.no_grad():
            wanted = self.run_faces(photo)
        terms["identity"] = 1 - (self.run_faces(picture) * wanted).sum(1).mean()
        terms["eyes"] = eye_difference(picture - photo, self.eyes).mean()
        terms["texture"] = texture + excess_texture(picture, photo)
        terms["latent"] = latents.square().mean()
        terms["spread"] = (codes - codes.mean(1, keepdim=True)).square().mean()
        return terms

    @torch.no_grad()
    def report_codes(self, **finders: Callable[[Tensor], Tensor]) -> None:
        """Held-out figures of what finds codes of photos (B, 3, 256, 256), by name; grid: photo, a picture of each."""
        photos = from_bytes(RealFaces(self.args.val, ENCODER_SIZE, self.device).pictures)
        rows, sums = [], torch.zeros(len(finders), 3, device=photos.device)
        for batch in photos.split(8):
            pictures = [self.generator.small_picture(find(batch)).clamp(-1, 1) for find in finders.values()]
            sums += torch.stack([self.distances(picture, batch) for picture in pictures])
            rows.append(torch.stack((batch, *pictures), 1))
        for name, values in zip(finders, (sums / len(photos)).tolist(), strict=True):
            print(f"held-out {name}: mse {values[0]:.4f} st-lpips {values[1]:.4f} identity {values[2]:.4f}", flush=True)
        save_grid(torch.cat(rows)[:24], self.args.out / f"{self.name}.jpg", columns=4)
