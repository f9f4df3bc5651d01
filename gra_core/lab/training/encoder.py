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

from gra_core.images import from_bytes
from gra_core.lab.training.codes import GENERATED_SHARE, LOSS_WEIGHTS, CodeTraining, add_code_options
from gra_core.lab.training.data import sample_w
from gra_core.lab.training.loop import training_options
from gra_core.lab.training.losses import load_face_net
from gra_core.models.encoder import LATENT_SAMPLES, Encoder, average_face, to_encoder_size

RIDGE = 3.0
"""Penalty, in photos, on the weights of the last layer when they are fitted to known codes."""


def parser() -> argparse.ArgumentParser:
    """Options of `train encoder`."""
    options = training_options("encoder", __doc__, batch=64, seed=0)
    options.add_argument("--regression-minutes", type=float, default=0.0, help="first minutes, on known codes only")
    options.add_argument(
        "--fit-latents", action="store_true", help="give --init a latent space fitted to the generator"
    )
    add_code_options(options)
    return options


class EncoderTraining(CodeTraining):
    """Nets, data and losses of the encoder."""

    name = "encoder"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, partial(new_encoder, args.face_net))
        self.average_face = average_face(self.generator)
        if args.fit_latents or not args.init:
            w = sample_w(self.generator, LATENT_SAMPLES, truncation=1.0)
            if args.init:
                move_to_latents(self.module, w, self.real.pictures, self.average_face)
            else:
                self.module.latent_space.fit(w)
            self.average.average.load_state_dict(self.module.state_dict())
        self.latent_space = self.module.latent_space
        self.run_encoder = self.compile(self.module)

    def loss(self, minutes: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one fresh batch."""
        regression_only = minutes < self.args.regression_minutes
        with torch.no_grad():
            if regression_only:
                chunk = round(GENERATED_SHARE * self.args.batch)
                parts = [self.generated(chunk) for _ in range(self.args.batch // chunk)]
                photo, known, exact = (torch.cat(part) for part in zip(*parts, strict=True))
            else:
                photo, known, exact = self.fresh(self.args.batch)
        small = to_encoder_size(photo)
        latents = self.run_encoder(small, self.average_face.expand_as(small)).float()
        codes = self.latent_space(latents)
        terms = {"code": self.code_error(codes[: len(known)], known, exact)}
        if not regression_only:
            terms |= self.likeness(latents, codes, self.run_generator(codes).float(), photo)
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    def report(self) -> None:
        """Held-out figures of the averaged encoder."""
        encoder = self.average.average
        self.report_codes(
            encoder=lambda photo: encoder.latent_space(encoder(photo, self.average_face.expand_as(photo)))
        )


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
