"""What both training programs need: processes, precision, time box, averages, checkpoints."""

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gra_core.checkpoints import as_float


@dataclass(frozen=True)
class Process:
    """This process among the ones that `torchrun` started, or the only one."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def log(self, message: str) -> None:
        """Print once, not once per process."""
        if self.leads:
            print(message, flush=True)


def start_process(seed: int) -> Process:
    """Join the process group if `torchrun` started us, choose the device, seed the generators."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = False  # trying every convolution out takes minutes on an H200
    else:
        device = torch.device("cpu")
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(seed + 1000 * rank)
    return Process(rank, world, device)


def load_compiled(path: Path | None) -> None:
    """Take over what an earlier run compiled; the same GPU, PyTorch and code find it, others compile anew."""
    if path and path.is_file():
        torch.compiler.load_cache_artifacts(path.read_bytes())


def save_compiled(path: Path | None) -> None:
    """Keep what this run compiled (compiling takes minutes) for `load_compiled`."""
    artifacts = torch.compiler.save_cache_artifacts() if path else None
    if artifacts:
        path.write_bytes(artifacts[0])


def average_gradients(parameters: list[nn.Parameter], process: Process) -> None:
    """Replace each gradient by its mean over all processes (data parallel training)."""
    if process.world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= process.world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def broadcast_state(module: nn.Module, process: Process) -> None:
    """Give every process the weights and buffers of the first."""
    if process.world > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


class AverageWeights:
    """Exponential moving average of a module's weights; the average is what is evaluated and shipped."""

    def __init__(self, module: nn.Module, average: nn.Module, decay: float = 0.999) -> None:
        self.module, self.average, self.decay = module, average, decay
        self.steps = 0
        average.load_state_dict(module.state_dict())
        average.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights; buffers (batch statistics) are averages already and are copied."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - decay)
        for mine, theirs in zip(self.average.buffers(), self.module.buffers(), strict=True):
            mine.copy_(theirs)


@dataclass
class Clock:
    """A run that ends on time: `progress` goes from 0 to 1 over the minutes given."""

    minutes: float
    start: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> float:
        """Share of the time that is used up, 0 to 1."""
        return min((time.monotonic() - self.start) / (60 * self.minutes), 1.0)

    def agreed_progress(self, process: Process) -> float:
        """The first process's progress, the same in all of them, so that all stop at the same step."""
        if process.world == 1:
            return self.progress
        value = torch.tensor([self.progress], device=process.device)
        dist.broadcast(value, 0)
        return value.item()


def cosine_rate(base: float, progress: float, step: int, warmup: int = 100) -> float:
    """Learning rate: linear warm-up over the first steps, then half a cosine down to 2 % of the base."""
    return base * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a module's weights as fp16 safetensors, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: _to_half(tensor) for name, tensor in module.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.chmod(0o644)
    partial.replace(path)


def _to_half(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() else tensor


def load_weights(module: nn.Module, path: Path, *, of_larger: bool = False) -> None:
    """Load weights written by `save_weights` into a float32 module.

    `of_larger`: the file may hold more than the module has, which is left out: streams of a simpler design start from
    those of the full one.
    """
    state = as_float(load_file(path))
    if of_larger:
        names = module.state_dict().keys()
        state = {name: tensor for name, tensor in state.items() if name in names}
    module.load_state_dict(state)


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write the optimizer's state (about twice the size of the float32 weights)."""
    torch.save(optimizer.state_dict(), path)


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Go on with the state of `save_optimizer`, if there is one."""
    if path.exists():
        optimizer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
