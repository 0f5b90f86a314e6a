"""State for nn.Module users, on top of the pure core."""

from .weights import weights as weights
