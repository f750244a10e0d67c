"""Signed statements about models and datasets, and the files that they vouch for.

``prepare`` verifies the sources of a job with them, and ``ftj verify`` a published model.
"""
