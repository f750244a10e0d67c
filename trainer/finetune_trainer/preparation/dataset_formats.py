"""Determines the formats of the datasets once, and checks them against the rest of the spec.

The rules of the API that depend on a format cannot be checked by the API server for ``auto``.
"""

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from typing import Any, TypeVar

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.data.dataset import Dataset
from finetune_api.v1alpha1.data.rows import AUTO, Columns, Mapping, Rows
from finetune_api.v1alpha1.data.statistics import FormatRecord
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.data.dataset_files import Fetched
from finetune_trainer.data.rows import formats
from finetune_trainer.errors import InvalidSpec
from finetune_trainer.runtime.log import log

AnyRows = TypeVar("AnyRows", bound=Rows)


def determine(
    job: JobConfig, fetched: MappingOf[Kind, Fetched]
) -> tuple[JobConfig, list[FormatRecord]]:
    """Return the job with the formats of its datasets, and their records.

    Raises DatasetInvalid for an unknown format, InvalidSpec for one that the spec does not allow.
    """
    training = [_follow(*each, fetched) for each in job.rows_of_training.items()]
    datasets, records = [rows for rows, _ in training], [found for _, found in training]
    _require_rendered_alike(datasets[0], records)
    changes: dict[str, Any] = {"dataset": datasets[0], "datasets": datasets}
    texts = {found.format == "text" for found in records}
    if job.evaluation_dataset is not None:
        changes["evaluation_dataset"], found = _follow(
            "evaluation.dataset", job.evaluation_dataset, fetched
        )
        records.append(found)
        if (found.format == "text") not in texts:
            raise InvalidSpec(
                f"the rows of evaluation.dataset have the format {found.format}, which cannot be "
                "combined with the format of the training rows. Prompt templates do not apply to "
                "rows in the text format: use the text format for both datasets, or for neither of "
                "them"
            )
    return job.model_copy(update=changes), records


def _require_rendered_alike(common: Dataset, records: Sequence[FormatRecord]) -> None:
    """Raise InvalidSpec if the common prompt cannot render the rows of all datasets."""
    for found in records:
        known = common.model_copy(update={"format": found.format, "columns": Columns()})
        known = known.model_copy(update={"mapping": Mapping()})
        for rule in known.broken_rules():
            raise InvalidSpec(
                f"the rows of {found.dataset} have the format {found.format}; {rule.message}"
            )


def _follow(
    kind: Kind, rows: AnyRows, fetched: MappingOf[Kind, Fetched]
) -> tuple[AnyRows, FormatRecord]:
    found = formats.record(kind, rows, fetched[kind].first())
    if found.requested == AUTO:
        log(f"the rows of {kind} have the format {found.format}")
    known = rows.model_copy(update={"format": found.format})
    for rule in known.broken_rules():
        raise InvalidSpec(f"the rows of {kind} have the format {found.format}; {rule.message}")
    return known, found
