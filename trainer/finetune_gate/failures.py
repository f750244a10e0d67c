"""Why an adapter is not used, and when it is tried again. Pure.

A *strike* is an attempt to load or to prove an adapter that ended without a result, because vLLM
answered with an error of its own, or not at all. The cause may be the adapter: vLLM fails on
scores that are no numbers, and an adapter can end it. So strikes are kept over restarts of vLLM, an
adapter with strikes comes after all others, and one that may have ended vLLM repeatedly is not
tried again before its job asks for another attempt.
"""

import math
from dataclasses import dataclass

Attempts = frozenset[tuple[str, int]]
"""Jobs that need an adapter, and the numbers of their attempts to serve it."""

MOST_STRIKES = 3
"""Strikes after which a name is reported as failed."""
LONGEST_WAIT = 600.0
"""Seconds between two attempts, at most. They begin with one second, and double."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an adapter is not used, and the time from which it is tried again.

    strikes: 0 if its files, or the answers of vLLM, are the reason. may_pass: another attempt may
    succeed with the same files. attempts: those that it ended, as of the start of the try.
    """

    message: str
    attempts: Attempts
    retry_at: float = math.inf
    strikes: int = 0
    may_pass: bool = False

    @property
    def is_reported(self) -> bool:
        """Whether the name has failed, and is not just waiting for the next attempt.

        A reported failure is final for a job whose earlier adapter answers.
        """
        return not self.may_pass and (self.strikes == 0 or self.strikes >= MOST_STRIKES)


def struck(
    before: Failure | None, cause: str, *, attempts: Attempts, has_ended: bool, now: float
) -> Failure:
    """Return the failure after another strike. has_ended: whether vLLM ended in the attempt."""
    strikes = 1 + (before.strikes if before is not None else 0)
    message = f"attempt {strikes} to load and prove the adapter had no result: {cause}"
    if has_ended:
        message += "; vLLM ended during the attempt"
    if has_ended and strikes >= MOST_STRIKES:
        message += ". It is not tried again before its job asks for another attempt"
        return Failure(message=message, attempts=attempts, strikes=strikes)
    wait = min(2.0 ** (strikes - 1), LONGEST_WAIT)
    return Failure(message=message, attempts=attempts, retry_at=now + wait, strikes=strikes)


def asked_again(before: Failure, attempts: Attempts, *, now: float) -> Failure | None:
    """Return the failure when a job asks for another attempt.

    An adapter that may end vLLM still comes after all others.
    """
    if not before.strikes:
        return None
    message = "vLLM failed in an earlier attempt, so the adapter is tried after all others"
    return Failure(message=message, attempts=attempts, retry_at=now, strikes=1)
