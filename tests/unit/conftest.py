"""Hypothesis profiles of the unit tests; ``--hypothesis-profile`` chooses one."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=700)
"""Seven times as many examples of everything, and 2,100 random histories of a job."""
