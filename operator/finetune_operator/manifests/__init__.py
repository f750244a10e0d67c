"""Manifests of the objects that a job owns, as dicts. Pure: rendering only, no decisions."""
