"""The train command: the loop, its monitor, its fallback and its results."""
