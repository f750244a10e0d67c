"""Budgets: which jobs may start to train, from limits, usage and reservations. Pure."""
