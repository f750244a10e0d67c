"""The merge command: base and adapter into one 16-bit model."""
