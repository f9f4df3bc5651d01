"""Where the weights come from: a local folder first, then a Hugging Face Hub repository; checked before use.

`checkpoints/manifest.json` lists each file with its SHA-256 and the revision the code was released with; a file that
differs is refused, wherever it came from.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gra_core.constants import CHECKPOINT_DIR
from gra_core.errors import CheckpointError
from gra_core.models.layers import StreamsDesign
from gra_core.models.streams import Streams

GENERATOR = "generator.safetensors"
ENCODER = "encoder.safetensors"
STREAMS = "streams.safetensors"
DIRECTIONS = "directions.safetensors"
PERSON = "person.safetensors"
MANIFEST = "manifest.json"
HUB_VARIABLE = "GRA_HUB_REPO"


class CheckpointSource:
    """A folder of weights, or a Hub repository, or (by default) the project's folder with the Hub behind it."""

    def __init__(self, source: str | Path | None = None) -> None:
        """Choose the source.

        Args:
            source: an existing folder, else the name of a Hub repository ("owner/name"); None means
                `checkpoints/` and, for files missing there, the repository named by `GRA_HUB_REPO`.
        """
        if source is None:
            self.folder, self.repository = CHECKPOINT_DIR, os.environ.get(HUB_VARIABLE)
        elif Path(source).is_dir():
            self.folder, self.repository = Path(source), None
        elif isinstance(source, Path) or str(source).startswith((".", "/")) or str(source).count("/") != 1:
            raise CheckpointError(f"There is no folder {source}. Give a folder of weights or a Hub name owner/name.")
        else:
            self.folder, self.repository = None, source

    def path(self, name: str) -> Path:
        """Local path of a weights file, downloaded if need be, its checksum verified.

        Raises:
            CheckpointError: The file is nowhere to be had, or is damaged.
        """
        local = self.folder / name if self.folder else None
        path = local if local and local.is_file() else self._download(name)
        wanted = self._manifest().get(name)
        if wanted and file_sha256(path) != wanted:
            raise CheckpointError(
                f"{path} is damaged or of another version (its SHA-256 is not the one in {MANIFEST}). "
                "Delete it and download it again."
            )
        return path

    def load(self, name: str, module: nn.Module) -> nn.Module:
        """Load a weights file into `module` as float32 and set it to evaluation.

        Raises:
            CheckpointError: As `path`, or the file is no safetensors file, or does not fit the module.
        """
        path = self.path(name)
        try:
            module.load_state_dict(as_float(load_file(path)))
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{path} cannot be used ({reason}). Delete it and download it again.") from error
        return module.eval().requires_grad_(False)

    def load_streams(self, name: str = STREAMS) -> Streams:
        """Load both streams, in the design that the file names. As `load`."""
        path = self.path(name)
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("design")
            design = StreamsDesign.from_json(text) if text else StreamsDesign()
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be used ({error}). Delete it and download it again.") from error
        return self.load(name, Streams(design))

    def _download(self, name: str) -> Path:
        if not self.repository:
            raise CheckpointError(
                f"{name} is missing in {self.folder}. Get the repository again, or set {HUB_VARIABLE} to the "
                "Hugging Face Hub repository that holds the weights."
            )
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repository, name))
        except Exception as error:  # the Hub client raises many kinds: network, HTTP, missing repository or file
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{name} could not be downloaded from {self.repository} ({reason}).") from error

    def _manifest(self) -> dict[str, str]:
        """SHA-256 of each file: the folder's own manifest, or the project's for the project's folder and the Hub."""
        path = (self.folder or CHECKPOINT_DIR) / MANIFEST
        return json.loads(path.read_text()) if path.is_file() else {}


def record_checksum(path: Path) -> None:
    """Enter a file just written into the manifest beside it, if there is one; else the manifest would refuse it."""
    manifest = path.with_name(MANIFEST)
    if manifest.is_file():
        entries = json.loads(manifest.read_text()) | {path.name: file_sha256(path)}
        manifest.write_text(json.dumps(dict(sorted(entries.items())), indent=2) + "\n")


def load_in_order(module: nn.Module, arrays: Sequence[np.ndarray], name: str, file: Path) -> None:
    """Load the weights of another format's file, which stand in the module's order, in shapes of the same sizes.

    Args:
        module: to load into.
        arrays: the weights.
        name: what the module is called in messages.
        file: where the weights come from, for messages.

    Raises:
        CheckpointError: Their sizes differ from the module's.
    """
    state = module.state_dict()
    if [array.size for array in arrays] != [tensor.numel() for tensor in state.values()]:
        raise CheckpointError(f"{file} is not the {name} that is expected: its layers differ.")
    pairs = zip(state.items(), arrays, strict=True)
    module.load_state_dict({name: torch.tensor(array).view_as(tensor) for (name, tensor), array in pairs})


def save_converted(state: Mapping[str, Tensor], path: Path, source: str) -> None:
    """Write weights that come from elsewhere (`source`) as fp16 safetensors, and enter them into the manifest."""
    save_file({name: value.half().contiguous() for name, value in state.items()}, path, metadata={"source": source})
    path.chmod(0o644)
    record_checksum(path)


def as_float(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Half-precision tensors as float32, others (counters) as they are."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
