"""Parses the metrics of a verify container into a ``Verification``. Pure.

A serving pod is scraped until the status reports its verification: each start of a pod is verified
once, and a restart of vLLM in a pod is compared with the same files again.
"""

import math
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_operator.objects.naming import BUILD, STAGE, label
from finetune_operator.types import Object, Verification

PORT = VERIFIER_METRICS
_PREFIX = "finetune_verify_"
_NUMBERS = ("distance", "tolerance", "seconds")


def unreported_pod(job: Object, pods: Iterable[Object]) -> Object | None:
    """Return the newest ready serving pod whose build has no verification in the status, or None.

    The status may report any ready pod of a build; all are compared with the same reference.
    """
    reported = job.get("status", {}).get("verification", {})
    build = reported.get("build")
    ready = [pod for pod in pods if _is_ready(pod)]
    names = {pod["metadata"]["name"] for pod in ready if label(pod, BUILD) == build}
    if reported.get("pod") in names:
        ready = [pod for pod in ready if label(pod, BUILD) != build]
    return max(ready, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def starting_pod(job: Object, pods: Iterable[Object]) -> Object | None:
    """Return the newest running serving pod of the target build that is not ready, or None."""
    build = job.get("status", {}).get("build")
    starting = [
        pod
        for pod in pods
        if label(pod, STAGE) == "serve"
        and build is not None
        and label(pod, BUILD) == build
        and (pod.get("status") or {}).get("phase") == "Running"
        and _has_address(pod)
        and not _is_ready(pod)
    ]
    return max(starting, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def parse_loaded(text: str) -> float | None:
    """Return the share of the model's bytes that a verify container has read, None if unknown."""
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            found |= {sample.name: sample.value for sample in family.samples}
    except ValueError:
        return None
    read, size = found.get(f"{_PREFIX}read_bytes"), found.get(f"{_PREFIX}size_bytes")
    if read is None or not size or not math.isfinite(read) or not math.isfinite(size):
        return None
    return min(1.0, max(0.0, read / size))


def parse(text: str, pod: Object) -> Verification | None:
    """Return the verification in the metrics of a pod, None if they contain no outcome."""
    numbers: dict[str, float] = {}
    outcome = None
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix(_PREFIX)
                if name == "outcome" and sample.value == 1:
                    outcome = sample.labels.get("outcome")
                elif name in _NUMBERS and math.isfinite(sample.value):
                    numbers[name] = sample.value
    except ValueError:
        return None
    if not outcome:
        return None
    return Verification(
        pod=pod["metadata"]["name"],
        build=str(label(pod, BUILD)),
        outcome=outcome,
        distance=numbers.get("distance"),
        tolerance=numbers.get("tolerance"),
        seconds=numbers.get("seconds"),
    )


def _is_ready(pod: Object) -> bool:
    status = pod.get("status") or {}
    return (
        label(pod, STAGE) == "serve"
        and _has_address(pod)
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions") or ()
        )
    )


def _has_address(pod: Object) -> bool:
    """Report whether a pod can be scraped: it has an address and is not terminating."""
    addressed = bool((pod.get("status") or {}).get("podIP"))
    return addressed and not pod["metadata"].get("deletionTimestamp")
