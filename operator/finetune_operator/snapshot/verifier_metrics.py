"""``status.verification``: what the container beside vLLM found out, from its metrics. Pure.

It is asked once for a serving pod: a pod is verified at each start, and a new start of vLLM in it
is compared with the same files again.
"""

import math
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from finetune_operator.types import Object, Verification

PORT = 9401
_PREFIX = "finetune_verify_"
_NUMBERS = ("distance", "tolerance", "seconds")
_BUILD, _STAGE = "finetune.dev/build", "finetune.dev/stage"


def untold(job: Object, pods: Iterable[Object]) -> Object | None:
    """Return a ready serving pod of a build of which the status tells nothing, or None.

    The status may tell of any ready pod of a build; they are all held to the same reference.
    """
    told = job.get("status", {}).get("verification", {})
    ready = [pod for pod in pods if _is_ready(pod)]
    names = {pod["metadata"]["name"] for pod in ready if _label(pod, _BUILD) == told.get("build")}
    if told.get("pod") in names:
        known = told.get("build")
        ready = [pod for pod in ready if _label(pod, _BUILD) != known]
    return max(ready, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def parsed(text: str, pod: Object) -> Verification | None:
    """Return what a pod's metrics say, None while they say no outcome."""
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
        build=str(_label(pod, _BUILD)),
        outcome=outcome,
        distance=numbers.get("distance"),
        tolerance=numbers.get("tolerance"),
        seconds=numbers.get("seconds"),
    )


def _is_ready(pod: Object) -> bool:
    status = pod.get("status") or {}
    return (
        _label(pod, _STAGE) == "serve"
        and bool(status.get("podIP"))
        and not pod["metadata"].get("deletionTimestamp")
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions") or ()
        )
    )


def _label(pod: Object, key: str) -> str | None:
    value = (pod["metadata"].get("labels") or {}).get(key)
    return None if value is None else str(value)
