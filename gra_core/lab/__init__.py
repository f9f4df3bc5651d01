"""All that only makes weights and figures: training, evaluation, directions, conversion. Nothing outside imports it."""
