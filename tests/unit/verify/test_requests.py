"""When clients last sent requests, from the text of vLLM's metrics."""

import math

import pytest

from finetune_verify.requests import RequestClock


def metrics(*, stop: float = 0, abort: float = 0, running: float = 0, waiting: float = 0) -> bytes:
    labels = 'engine="0",model_name="a b\\"}"'
    lines = [
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{{{labels}}} {float(running)}",
        f"vllm:num_requests_waiting{{{labels}}} {float(waiting)}",
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} {float(stop)}',
        f'vllm:request_success_total{{{labels},finished_reason="abort"}} {float(abort)}',
        f'vllm:request_success_created{{{labels},finished_reason="stop"}} 1.7e+09',
        "vllm:e2e_request_latency_seconds_count 99.0",
    ]
    return "\n".join(lines).encode() + b"\n"


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


class Requests:
    def __init__(self) -> None:
        self.time = Clock()
        self.clock = RequestClock(self.time)
        self.clock.start()
        self.clock.observe(metrics(stop=20, abort=1))

    def after(self, seconds: float, text: bytes | None) -> tuple[float, float]:
        """Return count and idle seconds after another read."""
        self.time.now += seconds
        self.clock.observe(text)
        return self.clock.count, self.clock.idle_seconds


def test_requests_before_the_first_read_do_not_count() -> None:
    assert Requests().after(10, metrics(stop=20, abort=1)) == (0, 10)


@pytest.mark.parametrize("ended", [{"stop": 22, "abort": 1}, {"stop": 20, "abort": 3}])
def test_requests_that_ended_since_the_last_read_count(ended: dict[str, float]) -> None:
    found = Requests()
    assert found.after(10, metrics(**ended)) == (2, 0)
    assert found.after(10, metrics(**ended)) == (2, 10)


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_request_under_way_is_no_silence(state: str) -> None:
    assert Requests().after(10, metrics(stop=20, abort=1, **{state: 1})) == (0, 0)


def test_a_server_that_does_not_answer_is_no_silence() -> None:
    assert Requests().after(10, None) == (0, 0)


def test_large_numbers_are_read() -> None:
    found = Requests()
    found.after(1, metrics(stop=1e6))
    assert found.after(1, metrics(stop=2e17))[0] > 1e17


def test_without_the_series_the_time_is_unknown() -> None:
    found = Requests()
    assert all(map(math.isnan, found.after(10, b"")))
    assert found.after(10, metrics(stop=5)) == (0, 0)
    assert found.after(10, metrics(stop=5)) == (0, 10)


def test_after_a_restart_of_vllm_the_time_starts_again() -> None:
    found = Requests()
    found.clock.stop()
    assert all(map(math.isnan, found.after(10, metrics(stop=9))))
    found.clock.start()
    assert found.after(5, metrics(stop=2)) == (0, 5)
    assert found.after(5, metrics(stop=2)) == (0, 10)
