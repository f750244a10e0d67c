"""Measurements of one real run of the quickstart on the local cluster: ``make bench``."""
