"""Facts that more than one module needs, each stated once."""

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

PROJECT_ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT_DIR = PROJECT_ROOT / "checkpoints"
ASSETS_DIR = PROJECT_ROOT / "assets"
