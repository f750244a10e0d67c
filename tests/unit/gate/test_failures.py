"""When an adapter is tried again, after vLLM failed instead of answering."""

import math

from finetune_gate.failures import (
    LONGEST_WAIT,
    MOST_STRIKES,
    Attempts,
    Failure,
    asked_again,
    struck,
)

FIRST: Attempts = frozenset({("job", 1)})


def test_attempts_continue_and_become_rare() -> None:
    failure, waits = None, []
    for _ in range(14):
        failure = struck(failure, "HTTP 500", attempts=FIRST, has_ended=False, now=100.0)
        waits.append(failure.retry_at - 100.0)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_WAIT


def test_a_few_strikes_are_not_reported() -> None:
    failure, reported = None, []
    for _ in range(MOST_STRIKES + 1):
        failure = struck(failure, "HTTP 500", attempts=FIRST, has_ended=False, now=0.0)
        reported.append(failure.is_reported)
    assert reported == [False] * (MOST_STRIKES - 1) + [True, True]
    assert Failure(message="other files", attempts=FIRST).is_reported
    assert not Failure(message="ESTALE", attempts=FIRST, may_pass=True).is_reported


def test_an_adapter_that_ends_the_engine_is_given_up() -> None:
    failure = None
    for _ in range(MOST_STRIKES):
        assert failure is None or failure.retry_at < math.inf
        cause = "/v1/completions: ServerDisconnectedError"
        failure = struck(failure, cause, attempts=FIRST, has_ended=True, now=0)
    assert failure is not None
    assert failure.retry_at == math.inf
    assert "before its job asks for another attempt" in failure.message


def test_another_attempt_does_not_clear_the_suspicion_that_an_adapter_ends_the_engine() -> None:
    second = frozenset({("job", 2)})
    assert asked_again(Failure(message="other files", attempts=FIRST), second, now=7.0) is None
    failure = asked_again(
        Failure(message="ended", attempts=FIRST, strikes=MOST_STRIKES), second, now=7.0
    )
    assert failure is not None
    assert (failure.strikes > 0, failure.retry_at, failure.is_reported) == (True, 7.0, False)
    assert failure.attempts == second
