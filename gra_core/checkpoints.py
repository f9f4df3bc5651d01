"""Where the weights come from: a local folder first, then a Hugging Face Hub repository; checked before use.

`manifest.json` beside the weights lists each file with its SHA-256; a file that differs is refused. Files from the Hub
are checked against the manifest of the release where the folder has none.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gra_core.constants import CHECKPOINT_DIR, CHECKPOINTS_VARIABLE, RELEASE_DIR
from gra_core.errors import CheckpointError, refusing
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
    """A folder of weights, or a Hub repository, or (by default) the usual folder with the Hub behind it."""

    def __init__(self, source: str | Path | None = None) -> None:
        """Choose the source.

        Args:
            source: an existing folder, else the name of a Hub repository ("owner/name", or "owner/name@revision");
                None means the folder named by `GRA_CHECKPOINTS`, else `checkpoints/`, and for files missing there the
                repository named by `GRA_HUB_REPO`.
        """
        self.revision = None
        if source is None:
            self.folder, self.repository = CHECKPOINT_DIR, os.environ.get(HUB_VARIABLE)
        elif Path(source).is_dir():
            self.folder, self.repository = Path(source), None
        elif isinstance(source, Path) or str(source).startswith((".", "/")) or str(source).count("/") != 1:
            raise CheckpointError(f"There is no folder {source}. Give a folder of weights or a Hub name owner/name.")
        else:
            self.folder, self.repository = None, str(source)
        if self.repository:
            self.repository, _, revision = self.repository.partition("@")
            self.revision = revision or None

    def path(self, name: str) -> Path:
        """Local path of a weights file, downloaded if need be, its checksum verified.

        Raises:
            CheckpointError: The file is nowhere to be had, or is damaged.
        """
        local = self.folder / name if self.folder else None
        path = local if local and local.is_file() else self._download(name)
        wanted = self._manifest(downloaded=path != local).get(name)
        with refusing(CheckpointError, f"{name} cannot be read. Get it again, or see who may read it."):
            found = file_sha256(path) if wanted else wanted
        if found != wanted:
            raise CheckpointError(
                f"{name} is damaged or of another version (its SHA-256 is not the one in {MANIFEST}). "
                "Delete it and download it again."
            )
        return path

    def load(self, name: str, module: nn.Module) -> nn.Module:
        """Load a weights file into `module` as float32 and set it to evaluation.

        Raises:
            CheckpointError: As `path`, or the file is no safetensors file, or does not fit the module.
        """
        path = self.path(name)
        with _using(name):
            module.load_state_dict(as_float(load_file(path)))
        return module.eval().requires_grad_(False)

    def load_streams(self, name: str = STREAMS) -> Streams:
        """Load both streams, in the design that the file names. As `load`."""
        path = self.path(name)
        with _using(name):
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("design")
            design = StreamsDesign.from_json(text) if text else StreamsDesign()
            streams = Streams(design)
        return self.load(name, streams)

    def _download(self, name: str) -> Path:
        if not self.repository:
            raise CheckpointError(
                f"{name} is missing in {self.folder.name}. Set {CHECKPOINTS_VARIABLE} to the folder that holds the "
                f"weights, or {HUB_VARIABLE} to the Hugging Face Hub repository that does."
            )
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repository, name, revision=self.revision))
        except Exception as error:  # the Hub client raises many kinds: network, HTTP, missing repository or file
            raise CheckpointError(f"{name} could not be downloaded from {self.repository}{_reason(error)}.") from error

    def _manifest(self, *, downloaded: bool) -> dict[str, str]:
        """SHA-256 of each file by the folder's own manifest, or by the release's for a download that has no other."""
        path = (self.folder or RELEASE_DIR) / MANIFEST
        if downloaded and not path.is_file():
            path = RELEASE_DIR / MANIFEST
        if not path.is_file():
            return {}
        with refusing(CheckpointError, f"{MANIFEST} is damaged. Get it again, with the weights that it came with."):
            manifest = json.loads(path.read_text())
            if not all(isinstance(checksum, str) for checksum in manifest.values()):
                raise ValueError("no checksums")
            return manifest


@contextlib.contextmanager
def _using(name: str) -> Iterator[None]:
    """Whatever goes wrong with a weights file in the block becomes a CheckpointError that shows no path."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{name} cannot be used{_reason(error)}. Delete it and download it again.") from error


def _reason(error: Exception) -> str:
    """Text of an error, in brackets; empty where it would show a path of this machine."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    shows_path = isinstance(error, FileNotFoundError) or getattr(error, "filename", None) is not None
    return "" if shows_path else f" ({text})"


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
        raise CheckpointError(f"{file.name} is not the {name} that is expected: its layers differ.")
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
