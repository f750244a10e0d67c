"""Files, configuration, kernels and layer-wise loading of the base model."""
