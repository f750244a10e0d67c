"""The base of a shared endpoint: downloaded once, and dequantized as the merge does it.

Every adapter with the same base and quantization was trained against the same 4-bit weights, so one
16-bit model made from them serves all of these adapters.
"""
