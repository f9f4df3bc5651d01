"""Measurements: reconstruction, identity and time, per picture and over a directory of portraits."""
