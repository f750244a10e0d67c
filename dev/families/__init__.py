"""The conformance matrix of model families: their attention kernels, and packing."""
