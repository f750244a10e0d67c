"""Signed statements, signatures, and the files that they are about."""
