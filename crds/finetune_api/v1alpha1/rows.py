"""Rows of a dataset: where they are, and which columns of them are read.

Shared by what is trained on (``dataset``) and what is evaluated on (``evaluation.dataset``).
"""

from typing import Any, Literal

from finetune_api.markers import ApiModel, Edit, Rule, field, matches
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import S3

COLUMNS_OF_FORMAT = {
    "alpaca": ("instruction", "input", "output"),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}


def _column(part: str, text: str) -> Any:
    return field(text, None, edit=Edit.RETRAIN, builtin=part, min_length=1, max_length=128)


class Columns(ApiModel):
    """Which column of the dataset plays which part, where its name differs from the part's."""

    instruction: str | None = _column("instruction", "Column with the instruction (format alpaca).")
    input: str | None = _column(
        "input", "Column with the optional input (format alpaca); it may be absent from the data."
    )
    output: str | None = _column("output", "Column with the answer (format alpaca).")
    messages: str | None = _column(
        "messages", "Column with the list of {role, content} (format messages)."
    )
    prompt: str | None = _column("prompt", "Column with the prompt (format prompt-completion).")
    completion: str | None = _column(
        "completion", "Column with the completion (format prompt-completion)."
    )
    text: str | None = _column("text", "Column with the text (format text).")

    def of(self, part: str) -> str:
        """Return the name of the column that plays ``part`` (such as ``instruction``)."""
        return getattr(self, part) or part


def _columns_rule(format_: str, parts: tuple[str, ...]) -> Rule:
    foreign = [part for part in Columns.model_fields if part not in parts]
    none_set = " && ".join(f"!has(self.columns.{part})" for part in foreign)
    return Rule(
        cel=f"self.format != '{format_}' || !has(self.columns) || ({none_set})",
        message=f"format {format_} reads the columns {', '.join(parts)} only: "
        "remove the others from columns, or change format",
        fails=lambda dataset: (
            dataset.format == format_
            and any(getattr(dataset.columns, part) is not None for part in foreign)
        ),
    )


class Rows(ApiModel):
    """Where rows are, and how one is read."""

    source: str = field(
        "Where the rows are: a dataset repository on the hub as hf://org/name, a file or folder of "
        "a PersistentVolumeClaim in the job's namespace as pvc://claim/path, a file or prefix in "
        "S3 as s3://bucket/path, a file or a SHA256SUMS list of files as https://host/path, or a "
        "small JSONL file in a ConfigMap of the job's namespace as configmap://name/key.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CONFIGMAP_SOURCE}|{sources.CLAIM_SOURCE}"
                f"|{sources.S3_SOURCE}|{sources.HTTPS_SOURCE}",
                "write the dataset as hf://org/name, pvc://claim/path, s3://bucket/path, "
                "https://host/path or, for a small JSONL file in a ConfigMap, "
                "as configmap://name/key",
            ),
        ),
    )
    format: Literal["alpaca", "messages", "prompt-completion", "text"] = field(
        "How a row is read: alpaca (instruction, input, output), messages (a chat), "
        "prompt-completion, or text (trained as it is).",
        edit=Edit.RETRAIN,
    )
    revision: str | None = sources.revision("dataset")
    sha256: str | None = sources.sha256("dataset")
    split: str = field(
        "Split of the dataset that is read.",
        "train",
        edit=Edit.RETRAIN,
        max_length=128,
        rules=(matches(r"^[A-Za-z0-9_.-]+$", "a split is one name, such as train"),),
    )
    max_samples: int | None = field(
        "Read the first rows only, this many.",
        None,
        edit=Edit.RETRAIN,
        builtin="all rows",
        ge=1,
    )
    columns: Columns = field(
        "Names of the columns, where they differ from the format's own.",
        Columns(),
        edit=Edit.RETRAIN,
        builtin="the format's own names",
    )
    token_secret_ref: SecretKeyRef | None = sources.token("dataset")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca("dataset")
    s3: S3 = sources.s3("dataset")


def rules(what: Literal["dataset", "evaluation.dataset"]) -> tuple[Rule, ...]:
    """Return the rules of rows; ``what`` is their place in the spec, such as ``dataset``."""
    return (
        *sources.rules(what),
        Rule(
            cel="!self.source.startsWith('configmap://') || !has(self.split) "
            "|| self.split == 'train'",
            message=f"a ConfigMap has no splits: remove {what}.split",
            fails=lambda d: d.source.startswith("configmap://") and d.split != "train",
        ),
        *(_columns_rule(name, parts) for name, parts in COLUMNS_OF_FORMAT.items()),
    )
