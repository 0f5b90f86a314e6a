"""State for nn.Module users on top of the pure core."""
