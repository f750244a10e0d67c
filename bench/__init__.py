"""Benchmarks, run by ``make bench``.

Each command writes one table of docs/reference/benchmarks.md, and none exists without a table. Five
share one harness (``simulated.harness``): servers, jobs, waits, and the cost of the operator.
"""
