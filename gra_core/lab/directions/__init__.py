"""How the shipped edit directions are found, corrected and checked."""
