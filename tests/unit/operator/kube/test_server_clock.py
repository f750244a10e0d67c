"""The clock of the API server."""

from finetune_operator.kube.server_clock import ServerClock


def test_time_is_that_of_the_last_response_and_passes() -> None:
    monotonic = 100.0
    clock = ServerClock(monotonic=lambda: monotonic, wall=lambda: 5000.0)
    assert clock.now() == 5000
    clock.observe("Sun, 01 Nov 2026 00:00:00 GMT")
    monotonic = 160.0
    assert clock.now() == 1_793_491_200 + 60
    # Responses of the same second change nothing.
    clock.observe("Sun, 01 Nov 2026 00:00:00 GMT")
    assert clock.now() == 1_793_491_200 + 60
    clock.observe("Sun, 01 Nov 2026 00:00:30 GMT")
    assert clock.now() == 1_793_491_200 + 30


def test_a_missing_or_invalid_header_is_ignored() -> None:
    clock = ServerClock(monotonic=lambda: 0.0, wall=lambda: 7.0)
    for header in ("", "soon"):
        clock.observe(header)
    assert clock.now() == 7
