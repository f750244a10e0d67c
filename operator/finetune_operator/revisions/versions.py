"""Versions of the state that outlives an operator: the ledger and frozen configurations.

An operator that is rolled back, or upgraded over a pre-release, may find state that it cannot read.
It changes nothing then: to guess would train again or lose records.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.v1alpha1.status.ledger import Revision

LEDGER_VERSION = 2
"""Format of ``status.revisions``, written to ``status.ledgerVersion``."""


class UnsupportedVersion(Exception):
    """State of another version of the operator cannot be read; the message says what to do."""

    def __init__(self, state: str, cause: str) -> None:
        """``state``: names the unreadable state; ``cause``: the value that is not supported."""
        super().__init__(
            f"{state} was written by another version of the operator and cannot be read ({cause}): "
            "run that version of the operator or a newer one, or delete and re-create the job to "
            "start again"
        )


def parsed_revisions(revisions: Iterable[Mapping[str, Any]], version: int | None) -> list[Revision]:
    """Return the records in ``status.revisions``. Raises UnsupportedVersion."""
    if version not in (None, LEDGER_VERSION):
        raise UnsupportedVersion(
            "the ledger in status.revisions",
            f"status.ledgerVersion is {version}, but this operator supports {LEDGER_VERSION}",
        )
    try:
        parsed = [Revision.model_validate(revision) for revision in revisions]
    except ValidationError as error:
        finding = error.errors()[0]
        place = ".".join(str(step) for step in finding["loc"])
        raise UnsupportedVersion(
            "the ledger in status.revisions",
            f"{place}: {finding['msg']}, but the value is {finding['input']!r}",
        ) from error
    for number, revision in enumerate(parsed):
        if revision.frozen is None:
            raise UnsupportedVersion(
                "the ledger in status.revisions", f"revisions.{number}.frozen is missing"
            )
    return parsed
