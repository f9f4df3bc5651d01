"""Train the refiner: `python -m gra_core train refiner --data DIR ...`, alone or under `torchrun`.

The encoder is frozen. Of each batch an equal share is before each step: new pictures at the encoder's codes before the
first, the others where the steps before have brought them, so that every step is learned from the codes it will see.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gra_core.constants import CHECKPOINT_DIR
from gra_core.models.encoder import Encoder
from gra_core.models.perceptual import load_published
from gra_core.models.refiner import STEPS, CodeEstimator, Refiner
from gra_core.training.codes import LOSS_WEIGHTS, CodeTraining, add_code_options
from gra_core.training.loop import training_options
from gra_core.training.runtime import broadcast_state, load_weights

SMALLEST_SCALE = 1e-6

SCALE_BATCHES = 8
"""Of photos, that the size of gradients is measured on."""


def parser() -> argparse.ArgumentParser:
    """Options of `train refiner`."""
    options = training_options("refiner", __doc__, batch=60, seed=2)
    options.set_defaults(rate=2e-4)
    options.add_argument("--encoder", type=Path, default=CHECKPOINT_DIR / "encoder.safetensors")
    add_code_options(options)
    return options


class RefinerTraining(CodeTraining):
    """Nets, data and losses of the refiner.

    Attributes:
        stages: of pictures on their way, one for each step: picture, latents, memory, known codes of the generated
            ones among them, whether those hold exactly.
    """

    name = "refiner"

    def __init__(self, args: argparse.Namespace) -> None:
        if not args.perceptual_alex:
            raise SystemExit("train refiner needs --perceptual-alex")
        super().__init__(args, Refiner)
        encoder = Encoder().to(self.device).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        load_weights(encoder, args.encoder)
        self.latent_space = encoder.latent_space
        self.chunk = args.batch // STEPS
        self.estimator = CodeEstimator(self.generator, encoder, self.module)
        if not args.init:
            load_published(self.module.distance, args.perceptual_alex)
            self.module.scale.copy_(self.measured_scale())
            broadcast_state(self.module, self.process)
            self.average.average.load_state_dict(self.module.state_dict())
        self.estimator.total_distance = self.compile(self.estimator.total_distance)
        self.run_latents = self.compile(self.estimator.latents)
        self.stages = [self.begin() for _ in range(STEPS)]

    def measured_scale(self) -> Tensor:
        """Root mean square of the gradients at the encoder's codes, (16, 512), no less than half precision can hold."""
        squares = []
        for _ in range(SCALE_BATCHES):
            with torch.no_grad():
                photo = self.photos(self.chunk)
                latents, wanted = self.estimator.latents(photo), self.estimator.wanted(photo)
            squares.append(self.estimator.gradient(latents, wanted).square().mean(0))
        return torch.stack(squares).mean(0).sqrt().clamp_min(SMALLEST_SCALE)

    @torch.no_grad()
    def begin(self) -> tuple[Tensor, ...]:
        """A chunk of fresh pictures as an entry of `stages`."""
        photo, known, exact = self.fresh(self.chunk)
        return photo, self.run_latents(photo).float(), self.module.nothing(len(photo)), known, exact

    def loss(self, minutes: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss after one step from each stage."""
        self.stages = [self.begin(), *self.stages[:-1]]
        photos, starts, memories, known, exact = zip(*self.stages, strict=True)
        photo, start, memory = torch.cat(photos), torch.cat(starts), torch.cat(memories)
        with torch.no_grad():
            wanted = self.estimator.wanted(photo)
        steps = torch.arange(STEPS, device=self.device).repeat_interleave(self.chunk)
        change, memory = self.module(self.estimator.gradient(start, wanted), start, steps, memory)
        latents = start + change.float()
        codes = self.latent_space(latents)
        found = torch.cat([chunk[: len(k)] for chunk, k in zip(codes.split(self.chunk), known, strict=True)])
        terms = {"code": self.code_error(found, torch.cat(known), torch.cat(exact))}
        terms |= self.likeness(latents, codes, photo)
        arrived = (value.detach().float().split(self.chunk) for value in (latents, memory))
        self.stages = list(zip(photos, *arrived, known, exact, strict=True))
        return sum(LOSS_WEIGHTS[name] * value for name, value in terms.items()), terms

    def report(self) -> None:
        """Held-out figures of the encoder's codes and of those that the averaged refiner makes of them."""
        estimator = CodeEstimator(self.generator, self.estimator.encoder, self.average.average)
        self.report_codes(encoder=lambda photo: self.latent_space(estimator.latents(photo)), refined=estimator)


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m gra_core train refiner`."""
    RefinerTraining(parser().parse_args(argv)).run()


if __name__ == "__main__":
    main()
