"""Commands for a terminal, outside the cluster."""
