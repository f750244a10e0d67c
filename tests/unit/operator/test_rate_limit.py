"""The rate limit of work, events and requests."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.rate_limit import MOST_KEYS, RateLimit

INTERVAL, BURST = 300.0, 25


def test_a_key_gets_a_burst_and_then_one_per_interval() -> None:
    limit: RateLimit[str] = RateLimit(interval=INTERVAL, burst=BURST)
    now = 1000.0
    assert [limit.take("a", now) for _ in range(BURST + 3)] == [True] * BURST + [False] * 3
    assert limit.take("b", now)
    for _ in range(3):
        now += INTERVAL
        assert limit.take("a", now)
        assert not limit.take("a", now)
    now += 2 * BURST * INTERVAL
    assert [limit.take("a", now) for _ in range(BURST + 1)] == [True] * BURST + [False]


@given(pauses=st.lists(st.integers(0, 400), max_size=60))
def test_it_counts_like_a_bucket_of_tokens(pauses: list[int]) -> None:
    """Each key has at most ``burst`` tokens, and gets one per interval."""
    limit: RateLimit[str] = RateLimit(interval=100, burst=3)
    tokens, now = 300, 0
    for pause in pauses:
        now += pause
        tokens = min(300, tokens + pause)
        assert limit.take("a", now) == (tokens >= 100)
        tokens -= 100 if tokens >= 100 else 0


def test_keys_far_from_their_limit_are_forgotten() -> None:
    limit: RateLimit[int] = RateLimit(interval=1, burst=5)
    for key in range(10):
        assert limit.take(key, 100.0)
    assert len(limit) == 10
    assert limit.take(10, 101.0)
    assert len(limit) == 1


def test_memory_is_bounded() -> None:
    limit: RateLimit[int] = RateLimit(interval=1, burst=1)
    for key in range(2 * MOST_KEYS):
        assert limit.take(key, 0.0)
    assert len(limit) == MOST_KEYS
    assert not limit.take(2 * MOST_KEYS - 1, 0.0)
    assert limit.take(0, 0.0), "the least recent keys are forgotten"


def test_without_an_interval_there_is_no_limit() -> None:
    limit: RateLimit[str] = RateLimit(interval=0, burst=1)
    assert all(limit.take("a", 1.0) for _ in range(100))
    assert len(limit) == 0
