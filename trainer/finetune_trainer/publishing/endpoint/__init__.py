"""Publishing to a shared endpoint: a copy of adapter and reference on its claim."""
