"""Folders published by rename with digests, and the safetensors files in them."""
