"""Gradual Residuals Alignment (Li et al., AAAI 2024): GAN inversion and attribute editing of real portraits."""

__version__ = "0.1.0"
