"""Real images and weights from ordinary packages, to try things out and to measure with."""
