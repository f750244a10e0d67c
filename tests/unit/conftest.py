"""Hypothesis profiles of the unit tests; ``--hypothesis-profile`` chooses one."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=700, deadline=None)
"""Seven times as many examples of everything, and 2,100 random histories of a job."""
