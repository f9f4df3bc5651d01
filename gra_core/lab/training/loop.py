"""What all training programs have in common: options, nets, and the time-boxed loop."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from gra_core.constants import CHECKPOINT_DIR
from gra_core.lab.training.losses import load_face_net
from gra_core.lab.training.perceptual import ShiftTolerantLPIPS, load_published
from gra_core.lab.training.runtime import (
    AverageWeights,
    Clock,
    average_gradients,
    broadcast_state,
    cosine_rate,
    load_compiled,
    load_optimizer,
    load_weights,
    save_compiled,
    save_optimizer,
    save_weights,
    start_process,
)
from gra_core.models.editing import PixelAlignmentModule
from gra_core.models.generator import Generator, SynthesisBlock
from gra_core.models.person import PersonNet

COMPILERS = ("inductor", "eager", "none")
"""What compiles the nets; "eager" traces them as the first does and runs them as they are, to try things out."""

COMPILED_PARTS = (SynthesisBlock, PixelAlignmentModule)
"""Those that work on large maps: what is won by compiling smaller ones takes longer to compile."""

LOG_EVERY = 100
SAVE_EVERY = 500
"""Steps between two saves; a stream training that runs beside takes over each save of the encoder."""

LAST_SUFFIX = "_last"
"""In the name of the file that holds the weights as they are, not their average: a run can go on from them."""


def training_options(program: str, description: str, batch: int, seed: int) -> argparse.ArgumentParser:
    """Options of all programs; `batch` and `seed` are defaults."""
    options = argparse.ArgumentParser(prog=f"python -m gra_core train {program}", description=description)
    options.add_argument("--data", type=Path, required=True, help="folder of aligned training photos")
    options.add_argument("--val", type=Path, help="folder of held-out photos")
    options.add_argument("--perceptual", type=Path, required=True, help="vgg_shift_tolerant.pth of stlpips-pytorch")
    options.add_argument("--face-net", type=Path, required=True, help="fr_feature.onnx of faceplugin")
    options.add_argument("--generator", type=Path, default=CHECKPOINT_DIR / "generator.safetensors")
    options.add_argument("--person", type=Path, default=CHECKPOINT_DIR / "person.safetensors")
    options.add_argument("--init", type=Path, help="weights to go on from, of this or of a larger design")
    options.add_argument("--out", type=Path, default=Path("runs") / program, help="folder for weights and pictures")
    options.add_argument("--minutes", type=float, default=10.0, help="of training, compilation included")
    options.add_argument("--steps", type=int, help="end after so many, should the minutes last for them")
    options.add_argument("--batch", type=int, default=batch, help="pictures per process and step, a multiple of 4")
    options.add_argument("--rate", type=float, default=4e-4, help="highest learning rate")
    options.add_argument("--seed", type=int, default=seed)
    options.add_argument("--compiler", choices=COMPILERS, default="inductor", help="eager: trace the nets only")
    options.add_argument("--compile-cache", type=Path, help="file that keeps compiled kernels from run to run")
    options.add_argument("--save-optimizer", action="store_true", help="keep the optimiser's state in --out as well")
    return options


class Training(ABC):
    """The nets of one program. `module` is trained; all others are frozen.

    Args:
        args: from `training_options`.
        make: makes the module to be trained.
    """

    name: str
    """Of the program and, with .safetensors, of the file it writes."""
    metadata: Mapping[str, str] = MappingProxyType({})
    """What the file says of its module besides the weights."""

    def __init__(self, args: argparse.Namespace, make: Callable[[], nn.Module]) -> None:
        self.args = args
        self.process = start_process(args.seed)
        self.device = self.process.device
        self.generator = Generator().to(self.device).eval().requires_grad_(False)
        load_weights(self.generator, args.generator)
        self.module, average = (make().to(self.device).to(memory_format=torch.channels_last) for _ in range(2))
        if args.init:
            load_weights(self.module, args.init, of_larger=True)
        broadcast_state(self.module, self.process)
        self.average = AverageWeights(self.module, average)
        self.perceptual = load_published(ShiftTolerantLPIPS(), args.perceptual).to(self.device)
        self.perceptual = self.perceptual.to(memory_format=torch.channels_last)
        self.faces = load_face_net(args.face_net).to(self.device)
        self.person = PersonNet().to(self.device).eval().requires_grad_(False)
        load_weights(self.person, args.person)
        self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")
        self.compile = partial(torch.compile, dynamic=False, backend=args.compiler)
        if args.compiler == "none":
            self.compile = lambda function: function
        load_compiled(args.compile_cache)

    def compile_parts(self, *modules: nn.Module) -> None:
        """Compile the blocks of modules, where they are, each by itself.

        What compiling takes grows faster than what is compiled, and the same block serves every run of a net.
        """
        if self.args.compiler == "none":
            return
        torch._dynamo.config.recompile_limit = 64  # one form for each size, with and without gradient
        for module in modules:
            for part in module.modules():
                if isinstance(part, COMPILED_PARTS):
                    part.compile(dynamic=False, backend=self.args.compiler)

    @abstractmethod
    def loss(self, minutes: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted loss and its terms on a fresh batch, `minutes` into the run."""

    @abstractmethod
    def report(self) -> None:
        """Print held-out figures of the averaged weights and write a grid of pictures."""

    def refresh(self) -> None:  # noqa: B027 - what only some programs do
        """Called at every line of the log."""

    def distances(self, picture: Tensor, photo: Tensor) -> Tensor:
        """Held-out measures of pictures (B, 3, 256, 256), summed over B: MSE, ST-LPIPS, 1 - identity cosine."""
        identity = 1 - (self.faces.embed(picture) * self.faces.embed(photo)).sum(1)
        squares = (picture - photo).square().mean((1, 2, 3))
        return torch.stack((squares, self.perceptual(picture, photo), identity)).sum(1)

    def run(self) -> None:
        """Train for `--minutes`, saving on the way and at the end, then report."""
        args, process = self.args, self.process
        on_gpu = self.device.type == "cuda"
        parameters = list(self.module.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=on_gpu)
        if args.init:
            load_optimizer(optimizer, args.out / "optimizer.pt")
        self._save(0)  # for what trains beside, while this compiles
        clock, step, elapsed, progress, mark = Clock(args.minutes), 0, 0.0, 0.0, 0.0
        while progress < 1 and step != args.steps:
            if process.world == 1 or step % 10 == 0:
                elapsed = clock.agreed_progress(process)
            progress = max(elapsed, step / args.steps) if args.steps else elapsed
            for group in optimizer.param_groups:
                group["lr"] = cosine_rate(args.rate, progress, step)
            with self.autocast():
                loss, terms = self.loss(elapsed * args.minutes)
            loss.backward()
            average_gradients(parameters, process)
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.average.update()
            step += 1
            if step == 1 and process.leads:
                save_compiled(args.compile_cache)  # all is compiled by now, and a run may be cut off
            if step % LOG_EVERY == 0 or step == 1:
                seconds = 60 * elapsed * args.minutes
                values = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
                process.log(f"step {step} {seconds:.0f} s ({(seconds - mark) / LOG_EVERY:.3f} s/step) {values}")
                mark = seconds
                self.refresh()
            if step % SAVE_EVERY == 0:
                self._save(step)
        self._save(step)
        if process.leads:
            if args.save_optimizer:
                save_optimizer(optimizer, args.out / "optimizer.pt")
            if args.val:
                self.report()

    def _save(self, step: int) -> None:
        if self.process.leads:
            for module, suffix in ((self.average.average, ""), (self.module, LAST_SUFFIX)):
                path = self.args.out / f"{self.name}{suffix}.safetensors"
                save_weights(module, path, {"steps": str(step), **self.metadata})
