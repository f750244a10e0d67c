"""Whether an adapter was trained against the weights that an endpoint serves. Pure.

The manifest of a base differs from job to job, so the digests of its files are compared, and for a
dequantized base those of the 4-bit weights that the training recorded.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.endpoint import codes_digest, source_digest
from finetune_api.contracts.stage_request import EndpointTarget
from finetune_trainer.checkpointing import published
from finetune_trainer.publishing.target_errors import TargetRejected


def require(facts: Mapping[str, Any], endpoint: EndpointTarget) -> None:
    """Raise TargetRejected for an adapter of another base. facts: of its manifest."""
    files = facts.get(published.BASE_FILES_FACT)
    # An adapter of an earlier version has no digests; the endpoint then compares commits.
    if endpoint.source is not None and files is not None:
        found = source_digest(files)
        if found != endpoint.source:
            raise TargetRejected(
                f"the files of the base of this job (digest {found[:16]}…) differ from those of "
                f"FineTuneEndpoint {endpoint.endpoint} (digest {endpoint.source[:16]}…): use an "
                "endpoint with the source and revision of spec.model, or set serving.mode: merged"
            )
    if endpoint.codes is not None:
        found = codes_digest(facts["quantizedModules"])
        if found != endpoint.codes:
            raise TargetRejected(
                f"the 4-bit weights of the training (digest {found[:16]}…) differ from those of "
                f"FineTuneEndpoint {endpoint.endpoint} (digest {endpoint.codes[:16]}…): use an "
                "endpoint with base: original, or set serving.mode: merged"
            )
