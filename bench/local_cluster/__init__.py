"""Benchmarks on the local cluster, with real training and real vLLM."""
