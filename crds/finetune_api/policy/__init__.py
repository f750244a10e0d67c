"""Limits on what a FineTuneJob may reach: one set of rules, in Python and in CEL. Pure."""
