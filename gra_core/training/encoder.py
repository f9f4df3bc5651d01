"""Train the encoder: `python -m gra_core train encoder --data DIR ...`, alone or under `torchrun`.

First a short while on generated faces with known codes only (no gradient through the generator, so it is fast),
then on real and generated faces with picture losses through the frozen generator.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gra_core.constants import ENCODER_SIZE
from gra_core.images import from_bytes
from gra_core.models.editing import sample_at, upscale_flow
from gra_core.models.encoder import LATENT_SAMPLES, ROUNDS, Encoder, estimate_codes, to_encoder_size
from gra_core.models.generator import Generator
from gra_core.training.backgrounds import Backgrounds, packed, person_masks, set_before, unpacked
from gra_core.training.data import (
    RealFaces,
    apply_tone,
    blur_detail,
    random_flow,
    random_patch_mask,
    random_tone,
    sample_codes,
    sample_w,
)
from gra_core.training.loop import Training, training_options
from gra_core.training.losses import ShiftTolerantAlexNet, excess_texture, load_face_net
from gra_core.training.report import save_grid
from gra_core.training.variants import add_variant_options, edited_photos

LOSS_WEIGHTS = {
    "mse": 1.0,
    "l1": 0.5,
    "lpips": 3.0,
    "lpips_alex": 5.0,
    "identity": 0.6,
    "texture": 300.0,
    "code": 0.5,
    "spread": 0.05,
    "latent": 3e-3,
}
"""`code`: distance to the known code of generated faces. `spread`: variance of a code over its 16 rows, which keeps
it near W, where edits work (e4e, Tov et al. 2021, section 4.1). `latent`: square of the latents, 1 for the
generator's own w."""

GENERATED_SHARE = 0.25
"""Of each batch, faces with known codes; the rest are photos, which are what is hard."""

BACKGROUND_SHARE = 0.4
"""Of the photos, those of people set before the room behind somebody else, for rooms not to be learned by heart."""

RIDGE = 3.0
"""Penalty, in photos, on the weights of the last layer when they are fitted to known codes."""


def parser() -> argparse.ArgumentParser:
    """Options of `train encoder`."""
    options = training_options("encoder", __doc__, batch=64, seed=0)
    options.add_argument("--regression-minutes", type=float, default=0.0, help="first minutes, on known codes only")
    options.add_argument(
        "--rounds", type=int, choices=(1, 2), default=ROUNDS, help="2: half of each batch are corrections"
    )
    options.add_argument("--perceptual-alex", type=Path, help="alex_shift_tolerant.pth: a second perceptual loss")
    options.add_argument(
        "--fit-latents", action="store_true", help="give --init a latent space fitted to the generator"
    )
    add_variant_options(options)
    return options


class EncoderTraining(Training):
    """Nets, data and losses of the encoder."""

    name = "encoder"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, partial(new_encoder, args.face_net))
        self.real = RealFaces(args.data, 2 * ENCODER_SIZE, self.device)
        self.backgrounds = Backgrounds(self.real, self.person)
        self.masks = self.backgrounds.masks
        if args.variants:
            variants = edited_photos(args.editor, self.real.pictures, args.variants).flatten(0, 1)
            self.real.add(variants)
            masks = [packed(person_masks(self.person, from_bytes(batch))) for batch in variants.split(16)]
            self.masks = torch.cat((self.masks, *masks))
        self.process.log(f"{len(self.real.pictures)} photos and variants")
        if args.fit_latents or not args.init:
            w = sample_w(self.generator, LATENT_SAMPLES, truncation=1.0)
            if args.init:
                move_to_latents(self.module, w, self.real.pictures, self.average_face)
            else:
                self.module.latent_space.fit(w)
            self.average.average.load_state_dict(self.module.state_dict())
        self.run_generator = self.compile(partial(small_picture, self.generator))
        self.run_encoder = self.compile(self.module)
        self.run_faces = self.compile(self.faces.embed)
        self.run_perceptual = {"lpips": self.compile(self.perceptual)}
        if args.perceptual_alex:
            alex = ShiftTolerantAlexNet(args.perceptual_alex).to(self.device).to(memory_format=torch.channels_last)
            self.run_perceptual["lpips_alex"] = self.compile(alex)

    def photos(self, count: int) -> Tensor:
        """Augmented real photos (count, 3, 256, 256)."""
        device = self.device
        photos, masks = self.real.sample_with(count, self.masks)
        elsewhere = torch.rand(count, 1, 1, 1, device=device) < BACKGROUND_SHARE
        kept = torch.where(elsewhere, unpacked(masks), 1.0)
        photos = set_before(photos, kept, self.backgrounds.sample(count, photos.shape[-1]))
        flow = random_flow(count, device, 0.6)
        photos = sample_at(photos, upscale_flow(flow, 4))
        photos = apply_tone(F.avg_pool2d(photos, 2), random_tone(count, device, 0.6))
        return blur_detail(photos, torch.rand(count, device=device) > 0.05)

    def generated(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Generated pictures, their codes, and whether the picture is still exactly that code's (count,)."""
        device = self.device
        codes = sample_codes(self.generator, count)
        clean = self.run_generator(codes).float().clamp(-1, 1)
        moved = sample_at(clean, upscale_flow(random_flow(count, device, 0.6), 2))
        changed = apply_tone(moved, random_tone(count, device, 0.6))
        mask = random_patch_mask(count, ENCODER_SIZE, device) * (torch.rand(count, 1, 1, 1, device=device) < 0.5)
        changed = torch.lerp(changed, self.photos(count), mask)
        exact = torch.rand(count, device=device) < 0.6
        return torch.where(exact[:, None, None, None], clean, changed), codes, exact

    def loss(self, minutes: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh batch, starting at the average face, or half of it at the encoder's own estimate."""
        regression_only = minutes < self.args.regression_minutes
        with torch.no_grad():
            chunk = round(GENERATED_SHARE * self.args.batch)
            photo, known, exact = self.generated(chunk)
            if regression_only:
                more = [self.generated(chunk) for _ in range(self.args.batch // chunk - 1)]
                photo, known, exact = (torch.cat(parts) for parts in zip((photo, known, exact), *more, strict=True))
            else:
                photo = torch.cat((photo, self.photos(self.args.batch - chunk)))
            start, shown = torch.zeros_like(self.base), self.average_face.expand_as(photo)
            if self.args.rounds == 2:
                second = torch.arange(len(photo), device=photo.device) % 2 == 1
                estimate = self.run_encoder(photo, shown).float()
                own = self.run_generator(self.module.latent_space(estimate)).float().clamp(-1, 1)
                start = torch.where(second[:, None, None], estimate, start)
                shown = torch.where(second[:, None, None, None], own, shown)
        latents = start + self.run_encoder(photo, shown).float()
        codes = self.module.latent_space(latents)
        terms = {}
        error = F.smooth_l1_loss(codes[: len(known)], known, reduction="none", beta=0.2).mean((1, 2))
        terms["code"] = (error * exact).sum() / exact.sum().clamp_min(1)
        if not regression_only:
            picture = self.run_generator(codes).float()
            terms["mse"] = F.mse_loss(picture, photo)
            terms["l1"] = F.l1_loss(picture, photo)
            terms |= {name: net(picture, photo).mean() for name, net in self.run_perceptual.items()}
            with torch.no_grad():
                wanted = self.run_faces(photo)
            terms["identity"] = 1 - (self.run_faces(picture) * wanted).sum(1).mean()
            terms["texture"] = excess_texture(picture, photo)
            terms["latent"] = latents.square().mean()
            terms["spread"] = (codes - codes.mean(1, keepdim=True)).square().mean()
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    @torch.no_grad()
    def report(self) -> None:
        """Held-out figures after one round and after all; grid: photo, first estimate, corrected estimate."""
        photos = from_bytes(RealFaces(self.args.val, ENCODER_SIZE, self.device).pictures)
        encoder = self.average.average
        rows, sums = [], torch.zeros(2, 3, device=photos.device)
        for batch in photos.split(8):
            first = encoder.latent_space(encoder(batch, self.average_face.expand_as(batch)))
            last = estimate_codes(encoder, self.generator, batch, self.average_face)
            pictures = [to_encoder_size(self.generator(codes)).clamp(-1, 1) for codes in (first, last)]
            sums += torch.stack([self.distances(picture, batch) for picture in pictures])
            rows.append(torch.stack((batch, *pictures), 1))
        for name, values in zip(("first", "corrected"), (sums / len(photos)).tolist(), strict=True):
            print(f"held-out {name}: mse {values[0]:.4f} st-lpips {values[1]:.4f} identity {values[2]:.4f}", flush=True)
        save_grid(torch.cat(rows)[:24], self.args.out / "encoder.jpg", columns=4)


@torch.no_grad()
def move_to_latents(encoder: Encoder, w: Tensor, photos: Tensor, average_face: Tensor) -> None:
    """Fit the encoder's latent space to w (N, 512) and its last layer, by ridge regression, to the codes as they were.

    `photos`: (M, 3, S, S) uint8, M well above the encoder's width.
    """
    training, features, codes = encoder.training, [], []
    encoder.eval()
    hook = encoder.out_norm.register_forward_hook(lambda _module, _inputs, found: features.append(found.float()))
    for batch in photos.split(32):
        photo = to_encoder_size(from_bytes(batch))
        codes.append(encoder.latent_space(encoder(photo, average_face.expand_as(photo))))
    hook.remove()
    encoder.train(training)
    encoder.latent_space.fit(w)
    seen = F.pad(torch.cat(features), (0, 1), value=1.0).transpose(0, 1).double()
    wanted = encoder.latent_space.inverse(torch.cat(codes)).transpose(0, 1).double()
    gram = seen.mT @ seen + RIDGE * torch.eye(seen.shape[-1], device=seen.device)
    weights = torch.linalg.solve(gram, seen.mT @ wanted).float()
    encoder.out_weight.copy_(weights[:, :-1])
    encoder.out_bias.copy_(weights[:, -1])


def small_picture(generator: Generator, codes: Tensor) -> Tensor:
    """The picture of codes at 256 px: the low band is twice the picture at half size, so nothing finer is made."""
    return to_encoder_size(0.5 * generator.synthesize_bands(codes)[:, :3])


def new_encoder(face_net: Path) -> Encoder:
    """An untrained encoder with the trained face net in it."""
    encoder = Encoder()
    encoder.face.load_state_dict(load_face_net(face_net).state_dict())
    return encoder


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m gra_core train encoder`."""
    EncoderTraining(parser().parse_args(argv)).run()


if __name__ == "__main__":
    main()
