"""Checks of a published model: the signature of its statement, its files, and its base."""
