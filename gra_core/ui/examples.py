"""The example photos: faces that the generator made up."""

from pathlib import Path

from gra_core.constants import ASSETS_DIR


def example_files() -> list[Path]:
    """The example pictures, by name."""
    return sorted((ASSETS_DIR / "examples").glob("*.webp"))
