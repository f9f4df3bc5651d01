"""What both trainings need: processes, compiled code, rates, files of weights."""

import hashlib
import math
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gra_core.checkpoints import as_float
from gra_core.errors import CheckpointError
from gra_core.memory import keep_freed_memory

PATIENCE = timedelta(hours=3)
"""How long a process waits for another one: the first calibrates and evaluates alone."""


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

    def agreed(self, decision: bool) -> bool:
        """What the first process decides. All others wait for it."""
        if self.world == 1:
            return decision
        value = torch.tensor([float(decision)], device=self.device)
        dist.broadcast(value, 0)
        return bool(value.item())

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes; itself where there is one."""
        return DistributedDataParallel(module) if self.world > 1 else module


def start_process() -> Process:
    """Join the process group if `torchrun` started us, and choose the device."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = False  # trying every convolution out takes minutes on an H200
    else:
        device = torch.device("cpu")
        keep_freed_memory()
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Process(rank, world, device)


def end_process() -> None:
    """Leave the process group: whoever just ends may be killed by its threads."""
    if dist.is_initialized():
        dist.destroy_process_group()


def seed_all(*numbers: int) -> None:
    """Seed PyTorch by several numbers: what follows depends on them alone, whatever was drawn before."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7]))


def load_compiled(path: Path) -> None:
    """Take over what an earlier run compiled; the same GPU, PyTorch and code find it, others compile anew."""
    if path.is_file():
        torch.compiler.load_cache_artifacts(path.read_bytes())


def save_compiled(path: Path) -> None:
    """Keep what this run compiled (compiling takes minutes) for `load_compiled`."""
    artifacts = torch.compiler.save_cache_artifacts()
    if artifacts:
        path.write_bytes(artifacts[0])


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


def load_weights(module: nn.Module, path: Path, *, of_other_design: bool = False) -> None:
    """Load weights written by `save_weights` into a float32 module.

    `of_other_design`: what the module has not is left out, and the search of the aligner, which designs without
    alignment lack, stays as it is.

    Raises:
        CheckpointError: The file lacks something else.
        RuntimeError: As `load_state_dict`.
    """
    state = as_float(load_file(path))
    if not of_other_design:
        module.load_state_dict(state)
        return
    own = module.state_dict()
    missing = [name for name in own if name not in state and ".attention." not in name]
    if missing:
        raise CheckpointError(f"{path} is of a smaller design: it has no {missing[0]}.")
    module.load_state_dict(own | {name: tensor for name, tensor in state.items() if name in own})
