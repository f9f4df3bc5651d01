"""Facts that more than one module needs, each stated once."""

import os
from pathlib import Path

IMAGE_SIZE = 1024
"""Side of every aligned face and of every result, in pixels."""

ENCODER_SIZE = 256
"""Side of the picture that the encoder sees, in pixels."""

NUM_STYLES = 16
"""Rows of a W+ code: 0 feeds the 4 px convolution, 1+2i and 2+2i feed block i, 15 feeds the to-image layer."""

STYLE_DIM = 512
"""Length of one style vector, also of z and w."""

MAX_STRENGTH = 100.0
"""Sliders run from -100 (or 0, for one-sided edits) to +100; 0 changes nothing."""

PACKAGE_DIR = Path(__file__).resolve().parent
INSTALLED_FILES = PACKAGE_DIR / "_files"
"""In an installed package: the few files that lie beside the package in the repository."""

PROJECT_ROOT = INSTALLED_FILES if INSTALLED_FILES.is_dir() else PACKAGE_DIR.parent
ASSETS_DIR = PROJECT_ROOT / "assets"
RELEASE_DIR = PROJECT_ROOT / "checkpoints"
"""Holds the manifest of the weights that the code was released with, and in the repository those weights."""

CHECKPOINTS_VARIABLE = "GRA_CHECKPOINTS"
CHECKPOINT_DIR = Path(os.environ.get(CHECKPOINTS_VARIABLE) or RELEASE_DIR)
"""Folder of the weights."""
