"""What data preparation determines about the datasets: formats, files, numbers of rows and tokens.

It is part of the ledger in the status.
"""

from typing import Literal

from pydantic import Field

from finetune_api.base import LedgerModel
from finetune_api.v1alpha1.data.rows import Format, ToolCallParser


class FormatRecord(LedgerModel):
    """The format of a dataset, determined by data preparation."""

    dataset: str = Field(
        description='Path of the dataset in the spec. Examples: "dataset", "evaluation.dataset".'
    )
    format: Format = Field(description="Format in which the rows were read.")
    requested: Literal["auto", Format] = Field(
        description="Value of the field `format` in the spec at the start of the revision."
    )
    detected: Format | None = Field(
        None,
        description='Format that "auto" selects. If you change the field `format` in the spec from '
        '"auto" to this value or back, no new revision starts.',
    )


class SourceRecord(LedgerModel):
    """The files of a dataset that data preparation read."""

    dataset: str = Field(
        description='Path of the dataset in the spec. Examples: "dataset", "evaluation.dataset".'
    )
    config: str | None = Field(
        None,
        description="Name of the configuration. Absent if the source has no configurations.",
    )
    commit: str | None = Field(
        None,
        description="Commit of the dataset on the Hugging Face Hub. For an https:// source: the "
        "SHA-256 digest in the spec. For other sources: the digest of the list of files.",
    )
    split: str = Field(description="Name of the split.")
    file_count: int = Field(description="Number of files of the split.")
    files: list[str] = Field(
        default_factory=list,
        description="Names of the first files of the split: at most 10, and fewer if the names are "
        "too long for the result of the prepare stage.",
    )


class RowStatistics(LedgerModel):
    """Statistics that training and evaluation datasets have in common."""

    dropped_rows: int | None = Field(
        None,
        description="Number of dropped rows. These rows are longer than training.sequenceLength.",
    )
    truncated_rows: int | None = Field(
        None,
        description="Number of truncated rows. These rows are longer than "
        "training.sequenceLength, so their end was cut off.",
    )
    duplicate_rows: int | None = Field(
        None, description="Number of rows that have the same content as an earlier row."
    )
    median_length: int | None = Field(None, description="Median length of a row, in tokens.")
    p95_length: int | None = Field(
        None, description="95th percentile of the length of a row, in tokens."
    )
    longest_row: int | None = Field(
        None,
        description="Length of the longest row, in tokens. Dropped and truncated rows are "
        "included with their full length.",
    )


class EvaluationData(RowStatistics):
    """Statistics of ``evaluation.dataset``, determined by data preparation."""

    rows: int | None = Field(None, description="Number of rows used for evaluation.")
    trained_rows: int | None = Field(
        None,
        description="Number of rows that are also in the training dataset. These rows make the "
        "held-out loss too low.",
    )
    tokens: int | None = Field(
        None, description="Number of tokens in the rows used for evaluation."
    )
    evaluated_tokens: int | None = Field(
        None, description="Number of tokens that contribute to the held-out loss."
    )


class DatasetRows(LedgerModel):
    """Rows of one of several datasets, determined by data preparation."""

    name: str = Field(description="Name of the dataset.", max_length=24)
    rows: int = Field(
        description="Number of rows used per epoch. With weight 2, each row is counted twice."
    )
    validation_rows: int = Field(description="Number of held-out rows.")


class Data(RowStatistics):
    """Statistics of the dataset, determined by data preparation."""

    rows: int | None = Field(None, description="Number of rows used for training.")
    validation_rows: int | None = Field(
        None,
        description="Number of rows used for evaluation. If evaluation.dataset is set, these are "
        "the rows of that dataset. Otherwise, these are the rows that are held out from training.",
    )
    train_tokens: int | None = Field(
        None, description="Number of tokens in the rows used for training."
    )
    trained_tokens: int | None = Field(
        None, description="Number of tokens that contribute to the training loss."
    )
    formats: list[FormatRecord] | None = Field(
        None, description="Format of each dataset, determined by the prepare stage."
    )
    sources: list[SourceRecord] | None = Field(
        None,
        description="Configuration, split and files of each dataset that the prepare stage read.",
    )
    tool_call_parser: ToolCallParser | None = Field(
        None,
        description="Suggested value of --tool-call-parser in serving.extraArgs. With this "
        "parser, vLLM recognizes tool calls in the answers of the model. Present if the rows "
        "contain tool calls and the prepare stage knows a vLLM parser for their format.",
    )
    datasets: list[DatasetRows] | None = Field(
        None,
        description="Number of rows of each dataset. Present only if the job has several datasets.",
    )
    planned_steps: int | None = Field(None, description="Planned total number of optimizer steps.")
    evaluation_dataset: EvaluationData | None = Field(
        None,
        description="Statistics of evaluation.dataset. Present only if the job has an evaluation "
        "dataset.",
    )
