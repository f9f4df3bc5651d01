"""Coverage-guided fuzzing of what reads pictures, own edits and zips; not part of `make test`.

    make fuzz RUNS=1000000

It runs the workers' functions in this process, without their limits: whatever they raise must be one of our errors.
Options are libFuzzer's. A file that it writes (`crash-*`) belongs into `hostile.py`.
"""

import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gra_core", "PIL", "zipfile", "pickle", "numpy.lib"]):
    import hostile

    from gra_core import archives, decoding
    from gra_core.directions import files
    from gra_core.errors import GRAError
    from gra_core.sandbox import Shared

SEED_BYTES = 30_000
MAX_PIXELS = 200_000
"""Larger pictures are not decoded: they cost time and show nothing new."""


def test_one_input(content: bytes) -> None:
    """Send the content through every reader."""
    if not content:
        return
    with Shared.content(io.BytesIO(content)) as source:
        for read in (
            lambda: _decode(source),
            lambda: files.read_direction(source, "x.npy", ".npy"),
            lambda: files.read_direction(source, "x.pt", ".pt"),
            lambda: files.read_direction(source, "x.safetensors", ".safetensors"),
            lambda: files.read_mapper(source, "x.pt"),
            lambda: archives.list_photos(source, "x.zip", 10),
        ):
            try:
                read()
            except GRAError as error:
                assert "\n" not in str(error)


def _decode(source: Shared) -> None:
    header = decoding.read_header(source, "x")
    if header["pixels"] <= MAX_PIXELS:
        with Shared.memory(header["pixels"] * 4) as target:
            decoding.read_pixels(source, target, "x")


def main() -> None:
    """Fuzz from the hostile files that are small."""
    with tempfile.TemporaryDirectory() as name:
        seeds = Path(name)
        groups = (hostile.damaged, hostile.unusual, hostile.metadata, hostile.own_edits)
        for number, (_, content) in enumerate(pair for make in groups for pair in make()):
            if len(content) <= SEED_BYTES:
                (seeds / str(number)).write_bytes(content)
        atheris.Setup([*sys.argv, str(seeds), "-rss_limit_mb=4000"], test_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
