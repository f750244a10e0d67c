"""Logs, and the metrics of the operator and of its jobs."""
