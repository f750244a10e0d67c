"""Benchmarks that need a GPU: memory, speed and bit-exactness."""
