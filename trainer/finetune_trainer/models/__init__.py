"""Files, configuration and layer-wise loading of the base model."""
