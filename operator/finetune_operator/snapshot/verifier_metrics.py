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
        and bool(status.get("podIP"))
        and not pod["metadata"].get("deletionTimestamp")
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions") or ()
        )
    )
