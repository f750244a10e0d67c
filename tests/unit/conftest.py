"""Hypothesis profiles of the unit tests; ``--hypothesis-profile`` chooses one."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=150, deadline=None, derandomize=True)
"""``make test``: half as many more examples, always the same: only a change can break it."""

settings.register_profile("search", max_examples=1000, deadline=None, print_blob=True)
"""``make search``: other examples in each run. It prints how to repeat a failure."""
