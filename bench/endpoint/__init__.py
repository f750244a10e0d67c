"""Benchmarks of the gate of a shared endpoint."""
