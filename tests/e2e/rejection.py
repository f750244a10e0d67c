"""Serve a faulty build, and check that it is rejected while the old build keeps serving."""

import json
import math
import re

from tests.e2e.planting import FOUND_BY, SCORES, Candidate, refused
from tests.e2e.served import KEY, Served
from tests.support.local_cluster.tuning import condition


def reject(served: Served, planted: Candidate, fault: str, *, caller: str) -> str:
    """Serve a planted fault, check its rejection, and return the message of the verification.

    caller: the namespace that calls the old build.
    """
    tuning, serves = served.tuning, served.build()
    attempt = planted.serve(fault)
    number = attempt["attempt"]
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "VerificationFailed"), attempt
    message = str(attempt["message"])
    assert FOUND_BY[fault] in message, message
    if FOUND_BY[fault] == SCORES:
        distance, tolerance = _numbers(message)
        assert distance > tolerance > 0, message
    # The watch of the pods can be later than that of the jobs, and the kubelet can restart the
    # container before the operator deletes the pod.
    (code, said), *_ = tuning.cluster.record.wait(
        "the container has ended", lambda: planted.exits(number) or None, seconds=240
    )
    assert code == 83, said
    result = json.loads(said)
    assert (result["reason"], result["message"]) == ("VerificationFailed", message), result
    assert not planted.was_ready(number), f"a pod of attempt {number} was ready"
    # The old build keeps serving, and the job reports the failure.
    reported = tuning.wait(
        "Ready reports the failure", lambda _: refused(tuning), seconds=240, stalls=True
    )
    assert message in reported, reported
    assert served.build() == serves, "the Service selects another build"
    available = condition(tuning.status(), "Serving")
    assert available is not None, tuning.status()
    assert available["status"] == "True", available
    answer = served.call(caller, "/v1/models", key=KEY)
    assert answer["status"] == 200, answer
    return message


def _numbers(message: str) -> tuple[float, float]:
    """Return distance and tolerance of a message."""
    found = re.search(r"reference is (\S+) nats over .*tolerance is (\S+) nats;", message)
    assert found is not None, message
    distance, tolerance = float(found[1]), float(found[2])
    assert math.isfinite(distance), message
    return distance, tolerance
