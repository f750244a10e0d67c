"""The base model: its configuration, its files, and the names of its tensors."""
