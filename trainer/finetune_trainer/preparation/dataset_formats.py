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
    training = [_follow(*pair, fetched) for pair in job.rows_of_training.items()]
    datasets, records = [rows for rows, _ in training], [record for _, record in training]
    _require_rendered_alike(datasets[0], records)
    changes: dict[str, Any] = {"dataset": datasets[0], "datasets": datasets}
    texts = {record.format == "text" for record in records}
    if job.evaluation_dataset is not None:
        changes["evaluation_dataset"], record = _follow(
            "evaluation.dataset", job.evaluation_dataset, fetched
        )
        records.append(record)
        if (record.format == "text") not in texts:
            raise InvalidSpec(
                f"the rows of evaluation.dataset have the format {record.format}, which cannot be "
                "combined with the format of the training rows. Prompt templates do not apply to "
                "rows in the text format: use the text format for both datasets, or for neither of "
                "them"
            )
    return job.model_copy(update=changes), records


def _require_rendered_alike(common: Dataset, records: Sequence[FormatRecord]) -> None:
    """Raise InvalidSpec if the common prompt cannot render the rows of all datasets."""
    for record in records:
        dataset = common.model_copy(update={"format": record.format, "columns": Columns()})
        dataset = dataset.model_copy(update={"mapping": Mapping()})
        for rule in dataset.broken_rules():
            raise InvalidSpec(
                f"the rows of {record.dataset} have the format {record.format}; {rule.message}"
            )


def _follow(
    kind: Kind, rows: AnyRows, fetched: MappingOf[Kind, Fetched]
) -> tuple[AnyRows, FormatRecord]:
    record = formats.record(kind, rows, fetched[kind].first())
    if record.requested == AUTO:
        log(f"the rows of {kind} have the format {record.format}")
    determined = rows.model_copy(update={"format": record.format})
    for rule in determined.broken_rules():
        raise InvalidSpec(f"the rows of {kind} have the format {record.format}; {rule.message}")
    return determined, record
