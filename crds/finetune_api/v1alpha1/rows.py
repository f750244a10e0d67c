"""Rows of a dataset: their location, format and columns.

Shared by the training dataset (``dataset``) and the evaluation dataset (``evaluation.dataset``).
"""

from typing import Any, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Condition, Rule, equals, excludes, is_set, matches, starts_with
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import S3

COLUMNS_OF_FORMAT = {
    "alpaca": ("instruction", "input", "output"),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}


def _column(name: str, text: str) -> Any:
    return field(text, None, edit=Edit.RETRAIN, builtin=name, min_length=1, max_length=128)


class Columns(ApiModel):
    """Column names of the dataset, if they differ from those of the format."""

    instruction: str | None = _column(
        "instruction", "Name of the column with the instruction. Used with format: alpaca."
    )
    input: str | None = _column(
        "input",
        "Name of the column with the input; the dataset may lack it. Used with format: alpaca.",
    )
    output: str | None = _column(
        "output", "Name of the column with the answer. Used with format: alpaca."
    )
    messages: str | None = _column(
        "messages",
        "Name of the column with the conversation, a list of {role, content} objects. Used "
        "with format: messages.",
    )
    prompt: str | None = _column(
        "prompt", "Name of the column with the prompt. Used with format: prompt-completion."
    )
    completion: str | None = _column(
        "completion", "Name of the column with the completion. Used with format: prompt-completion."
    )
    text: str | None = _column("text", "Name of the column with the text. Used with format: text.")

    def of(self, part: str) -> str:
        """Return the name of the column that holds ``part`` (such as ``instruction``)."""
        return getattr(self, part) or part


def _columns_rule(format_: str, parts: tuple[str, ...]) -> Rule:
    first, *others = (
        is_set(f"columns.{part}") for part in Columns.model_fields if part not in parts
    )
    foreign: Condition = first
    for other in others:
        foreign |= other
    return excludes(
        equals("format", format_),
        foreign,
        f"with format: {format_}, columns may contain only {', '.join(parts)}: remove the other "
        "entries, or change format",
    )


class Rows(ApiModel):
    """Location, format and columns of a dataset."""

    source: str = field(
        "Location of the dataset: hf://org/name (Hugging Face Hub), pvc://claim/path (file or "
        "folder of a PersistentVolumeClaim in the job's namespace), s3://bucket/path (file or "
        "prefix), https://host/path (file, or SHA256SUMS list of files and digests), or "
        "configmap://name/key (small JSONL file in a ConfigMap of the job's namespace).",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CONFIGMAP_SOURCE}|{sources.CLAIM_SOURCE}"
                f"|{sources.S3_SOURCE}|{sources.HTTPS_SOURCE}",
                "write the dataset's source as hf://org/name, pvc://claim/path, s3://bucket/path, "
                "https://host/path or, for a small JSONL file in a ConfigMap, "
                "configmap://name/key",
            ),
        ),
    )
    format: Literal["alpaca", "messages", "prompt-completion", "text"] = field(
        'Format of the rows: "alpaca" (instruction, input and output), "messages" (a '
        'conversation), "prompt-completion" (a prompt and its completion), or "text" (plain '
        "text, which is used without a template).",
        edit=Edit.RETRAIN,
    )
    revision: str | None = sources.revision("dataset")
    sha256: str | None = sources.sha256("dataset")
    split: str = field(
        "Name of the dataset split to read, such as train or test.",
        "train",
        edit=Edit.RETRAIN,
        max_length=128,
        rules=(matches(r"^[A-Za-z0-9_.-]+$", "write split as a single name, such as train"),),
    )
    max_samples: int | None = field(
        "Maximum number of rows to read. The rows are read from the beginning of the dataset.",
        None,
        edit=Edit.RETRAIN,
        builtin="all rows",
        ge=1,
    )
    columns: Columns = field(
        "Column names of the dataset. Set a name only if it differs from the standard name of "
        "the format.",
        Columns(),
        edit=Edit.RETRAIN,
        builtin="the standard column names of the format",
    )
    token_secret_ref: SecretKeyRef | None = sources.token("dataset")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca("dataset")
    s3: S3 = sources.s3("dataset")


def rules(what: Literal["dataset", "evaluation.dataset"]) -> tuple[Rule, ...]:
    """Return the rules of a dataset. what: its path in the spec."""
    return (
        *sources.rules(what),
        excludes(
            starts_with("source", sources.CONFIGMAP_SOURCE_PREFIX),
            is_set("split") & ~equals("split", "train"),
            f"a ConfigMap has no splits: remove {what}.split",
        ),
        *(_columns_rule(name, parts) for name, parts in COLUMNS_OF_FORMAT.items()),
    )
