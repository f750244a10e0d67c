"""The merge command: add the adapter to the base and publish one 16-bit model."""
