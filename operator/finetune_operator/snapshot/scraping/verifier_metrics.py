"""The metrics of a verify container: its result, the progress until then, and requests. Pure."""

from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_operator.snapshot.scraping.exposition import Series
from finetune_operator.types import Requests, Verification

PORT = VERIFIER_METRICS
MAX_IDLE_SECONDS = 3e8
"""About ten years: any pod may report any number, which is subtracted from a time."""
OUTCOMES = ("Verified", "Inconclusive", "Skipped")
"""As in ``finetune_verify.server``, which the operator does not import."""


def verification(series: Series, *, pod: str, build: str) -> Verification | None:
    """Return the verification that a pod of a build reports, None if it has no outcome yet."""
    reported = [
        outcome for outcome in OUTCOMES if series.get(("finetune_verify_outcome", outcome)) == 1
    ]
    if len(reported) != 1:
        return None
    return Verification(
        pod=pod,
        build=build,
        outcome=reported[0],
        distance=series.get(("finetune_verify_distance", "")),
        tolerance=series.get(("finetune_verify_tolerance", "")),
        smallest_fault=series.get(("finetune_verify_smallest_fault", "")),
        seconds=series.get(("finetune_verify_seconds", "")),
    )


def requests(series: Series, *, pod: str) -> Requests:
    """Return the requests of clients since the verification. pod: uid.

    An earlier version of the verifier does not count them, nor can any version if vLLM does not.
    """
    count = series.get(("finetune_verify_requests", ""))
    idle_seconds = series.get(("finetune_verify_idle_seconds", ""))
    if count is None or idle_seconds is None:
        return Requests(pod=pod, count=None)
    return Requests(pod=pod, count=int(count), idle_seconds=min(idle_seconds, MAX_IDLE_SECONDS))


def loaded(series: Series) -> float | None:
    """Return the share of the model's bytes that a verify container has read, None if unknown."""
    read = series.get(("finetune_verify_read_bytes", ""))
    size = series.get(("finetune_verify_size_bytes", ""))
    return None if read is None or not size else min(1.0, read / size)
