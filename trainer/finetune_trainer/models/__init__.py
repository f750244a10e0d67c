"""The base model's files, configuration and layer-wise loading."""
