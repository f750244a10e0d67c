"""Hypothesis profiles of all tests; ``--hypothesis-profile`` chooses one."""

from hypothesis import HealthCheck, settings

ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No limit of time for an example or for its generation: a machine may be busy."""

settings.register_profile("default", ANY_SPEED)
"""The profile of a run that chooses none."""

settings.register_profile("thorough", ANY_SPEED, max_examples=150, derandomize=True)
"""``make test``: half as many more examples, always the same: only a change can break it."""

settings.register_profile("search", ANY_SPEED, max_examples=1000, print_blob=True)
"""``make search``: other examples in each run. It prints how to repeat a failure."""
