"""``Verification``, and the progress until then, from the metrics of a verify container. Pure."""

from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_operator.snapshot.exposition import Series
from finetune_operator.types import Verification

PORT = VERIFIER_METRICS
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


def loaded(series: Series) -> float | None:
    """Return the share of the model's bytes that a verify container has read, None if unknown."""
    read = series.get(("finetune_verify_read_bytes", ""))
    size = series.get(("finetune_verify_size_bytes", ""))
    return None if read is None or not size else min(1.0, read / size)
