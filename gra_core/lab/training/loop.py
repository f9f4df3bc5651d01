"""What both trainings have in common: nets, and a loop over steps that goes on where it was cut off."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gra_core import checkpoints
from gra_core.lab.training.losses import load_face_net
from gra_core.lab.training.perceptual import VGG_FILE, load_published
from gra_core.lab.training.prepared import PreparedSet
from gra_core.lab.training.recipe import Recipe, Stage
from gra_core.lab.training.runtime import (
    Process,
    cosine_rate,
    load_compiled,
    load_weights,
    save_compiled,
    save_weights,
    seed_all,
)
from gra_core.models.editing import PixelAlignmentModule
from gra_core.models.generator import Generator, SynthesisBlock
from gra_core.models.person import PersonNet

FACE_NET_FILE = "fr_feature.onnx"
"""Of npm faceplugin-face-recognition-js 0.0.1, see `gra_core.models.face`."""

COMPILED_PARTS = (SynthesisBlock, PixelAlignmentModule)
"""Those that work on large maps: what is won by compiling smaller ones takes longer to compile."""

STATE = "state.pt"
COMPILED = "compiled.bin"

AGREE_EVERY = 10
"""Steps between two looks at the clock."""


@dataclass(frozen=True)
class Job:
    """One run of a stage, with one seed.

    Attributes:
        recipe: for what holds for all stages.
        stage: what is trained, and how long.
        seed: of all random numbers.
        key: hash of all that the result depends on; a state of another key is not gone on from.
        out: folder for the weights and the state.
        data: what is trained on.
        parents: folder of the generator's, the person net's and the edits' files.
        nets: folder of the nets that losses are made with.
        process: this one.
        init: weights to go on from.
        encoder: the encoder's weights, for streams.
        editor: folder of an editor's weights that edit photos.
        deadline: when to stop, by `time.monotonic`.
    """

    recipe: Recipe
    stage: Stage
    seed: int
    key: str
    out: Path
    data: PreparedSet
    parents: Path
    nets: Path
    process: Process
    init: Path | None = None
    encoder: Path | None = None
    editor: Path | None = None
    deadline: float = float("inf")


class _Loss(nn.Module):
    """The loss as one module, as `DistributedDataParallel` wants it."""

    def __init__(self, module: nn.Module, loss: Callable[[int], tuple[Tensor, dict[str, Tensor]]]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms."""
        return self.loss(step)


class Training(ABC):
    """The nets of one job. `module` is trained; all others are frozen.

    Args:
        job: what is to be done.
        make: makes the module to be trained.
    """

    name: str
    """Of the file it writes, without .safetensors."""
    metadata: Mapping[str, str] = MappingProxyType({})
    """What the file says of its module besides the weights."""

    def __init__(self, job: Job, make: Callable[[], nn.Module]) -> None:
        self.job, self.stage, self.process = job, job.stage, job.process
        self.device = job.process.device
        seed_all(job.seed)
        self.generator = self.frozen(Generator(), checkpoints.GENERATOR)
        self.person = self.frozen(PersonNet(), checkpoints.PERSON)
        self.module = make().to(self.device).to(memory_format=torch.channels_last)
        if job.init:
            load_weights(self.module, job.init, of_other_design=True)
        self.average = AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(self.stage.average))
        self.average.eval().requires_grad_(False)
        self.perceptual = load_published(job.nets / VGG_FILE).to(self.device).to(memory_format=torch.channels_last)
        self.faces = load_face_net(job.nets / FACE_NET_FILE).to(self.device)
        self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")
        self.compiler = "none" if self._on_cpu and job.recipe.compiler == "inductor" else job.recipe.compiler
        self.compile = partial(torch.compile, dynamic=False, backend=self.compiler)
        if self.compiler == "none":
            self.compile = lambda function: function
        torch._dynamo.reset()  # what an earlier stage compiled counts, too
        if self.compiler == "inductor":
            load_compiled(job.out.parent / COMPILED)
        betas, fused = (0.9, 0.99), not self._on_cpu
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), self.stage.rate, betas, weight_decay=1e-4, fused=fused
        )

    @property
    def _on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def frozen(self, net: nn.Module, name: str) -> nn.Module:
        """A net with weights of the parents, on the device."""
        load_weights(net, self.job.parents / name)
        return net.to(self.device).eval().requires_grad_(False)

    def compile_parts(self, *modules: nn.Module) -> None:
        """Compile the blocks of modules, where they are, each by itself.

        What compiling takes grows faster than what is compiled, and the same block serves every run of a net.
        """
        if self.compiler == "none":
            return
        torch._dynamo.config.recompile_limit = 64  # one form for each size, with and without gradient
        for module in modules:
            for part in module.modules():
                if isinstance(part, COMPILED_PARTS):
                    part.compile(dynamic=False, backend=self.compiler)

    @abstractmethod
    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted loss and its terms on a fresh part of a batch."""

    @abstractmethod
    def report(self) -> None:
        """Print held-out figures of the averaged weights and write a grid of pictures."""

    def trained(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """All that a state holds, by name."""
        return {"module": self.module, "average": self.average, "optimizer": self.optimizer}

    def nets_in_parallel(self) -> tuple[nn.Module, ...]:
        """Further modules of `Process.parallel` that `loss` sends gradients to."""
        return ()

    def after_step(self, step: int) -> None:  # noqa: B027 - what only some trainings do
        """Called when all parts of a step have sent their gradients."""

    def distances(self, picture: Tensor, photo: Tensor) -> Tensor:
        """Held-out measures of pictures (B, 3, 256, 256), summed over B: MSE, ST-LPIPS, 1 - identity cosine."""
        identity = 1 - (self.faces.embed(picture) * self.faces.embed(photo)).sum(1)
        squares = (picture - photo).square().mean((1, 2, 3))
        return torch.stack((squares, self.perceptual(picture, photo), identity)).sum(1)

    @property
    def own_parts(self) -> range:
        """The parts of a step that this process computes."""
        return range(self.process.rank, self.stage.parts, self.process.world)

    def run(self) -> bool:
        """Train from the saved state, if there is one, to the last step; then write the weights and report.

        The random numbers of each part follow from the seed, the step and the number of the part: neither where a run
        was cut off nor how many processes share the parts makes a difference.

        Returns:
            Whether the last step was reached before the deadline.
        """
        stage, process, parameters = self.stage, self.process, list(self.module.parameters())
        step = start = self._restore()
        loss_of = process.parallel(_Loss(self.module, self.loss))
        parallel = [net for net in (loss_of, *self.nets_in_parallel()) if isinstance(net, DistributedDataParallel)]
        marked, mark = start, time.monotonic()
        while step < stage.steps:
            if step % AGREE_EVERY == 0 and process.agreed(time.monotonic() > self.job.deadline):
                self._save(step)
                return False
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(stage.rate, step / stage.steps, step)
            for part in self.own_parts:
                seed_all(self.job.seed, step, part)
                with ExitStack() as stack:
                    if part != self.own_parts[-1]:  # gradients travel with the last one
                        for net in parallel:
                            stack.enter_context(net.no_sync())
                    with self.autocast():
                        loss, terms = loss_of(step)
                    (loss / len(self.own_parts)).backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.after_step(step)
            self.average.update_parameters(self.module)
            step += 1
            if step in (start + 1, stage.steps) and process.leads and self.compiler == "inductor":
                save_compiled(self.job.out.parent / COMPILED)  # early, as a run may be cut off
            if step % self.job.recipe.log_every == 0 or step == start + 1:
                values = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
                seconds, marked, mark = (time.monotonic() - mark) / (step - marked), step, time.monotonic()
                process.log(f"{stage.name} step {step} of {stage.steps}, {seconds:.2f} s/step: {values}")
            if step % self.job.recipe.save_every == 0:
                self._save(step)
        if process.leads:
            save_weights(self.average.module, self.job.out / f"{self.name}.safetensors", dict(self.metadata))
            self.report()
            (self.job.out / STATE).unlink(missing_ok=True)
        return True

    def _restore(self) -> int:
        """Go on with a saved state of the same job; how many steps were done."""
        path = self.job.out / STATE
        if not path.is_file():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["key"] != self.job.key:
            return 0
        for name, part in self.trained().items():
            part.load_state_dict(state[name])
        self.process.log(f"{self.stage.name} goes on from step {state['step']}")
        return state["step"]

    def _save(self, step: int) -> None:
        if self.process.leads:
            path = self.job.out / STATE
            state = {name: part.state_dict() for name, part in self.trained().items()}
            torch.save(state | {"key": self.job.key, "step": step}, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
