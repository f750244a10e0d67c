"""The train command: training loop, monitor, OOM fallback and results."""
