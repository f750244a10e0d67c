"""Rows of a dataset: their location, format and columns.

Shared by the training dataset (``dataset``) and the evaluation dataset (``evaluation.dataset``).
"""

from typing import Any, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, Statement, equals, excludes, is_set, matches, starts_with
from finetune_api.v1alpha1 import sources
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef
from finetune_api.v1alpha1.sources import S3

Format = Literal["alpaca", "messages", "sharegpt", "prompt-completion", "text"]
AUTO: Literal["auto"] = "auto"
"""Value of ``format`` with which prepare detects the format."""

ToolCallParser = Literal[
    "deepseek_v3",
    "hermes",
    "llama3_json",
    "mistral",
    "phi4_mini_json",
    "pythonic",
    "qwen3_coder",
]
"""Parsers of tool calls in vLLM, as --tool-call-parser names them."""

CONFIG = r'^[^<>:"`\\|?*\x00-\x1f\x7f]{1,128}$'
"""Names of configurations: those that the ``datasets`` library allows, and folders."""

COLUMNS_OF_FORMAT: dict[Format, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "sharegpt": ("messages", "tools"),
    "prompt-completion": ("prompt", "completion", "tools"),
    "alpaca": ("instruction", "input", "output"),
    "text": ("text",),
}
"""The parts of a row. ``auto`` selects the first of these formats whose columns a row has."""

CONVERSATIONS = ("messages", "sharegpt")
"""Formats whose rows are conversations; they differ in the keys and roles of a message."""

Role = Literal["system", "developer", "user", "assistant", "tool"]


def _column(name: str, text: str) -> Any:
    return field(text, None, edit=Edit.RETRAIN, builtin=name, min_length=1, max_length=128)


class Columns(ApiModel):
    """Column names of the dataset, if they differ from those of the format."""

    instruction: str | None = _column(
        "instruction", "Name of the column with the instruction. Used with format: alpaca."
    )
    input: str | None = _column(
        "input",
        "Name of the column with the input. This column is optional. Used with format: alpaca.",
    )
    output: str | None = _column(
        "output", "Name of the column with the answer. Used with format: alpaca."
    )
    messages: str | None = _column(
        "messages",
        "Name of the column with the conversation. A conversation is a list of messages. Used "
        "with format: messages and format: sharegpt.",
    )
    tools: str | None = _column(
        "tools",
        "Name of the column with the tools that the model can call. In each row, the value is a "
        "list of functions in the OpenAI format, or a string that contains this list as JSON. "
        "This column is optional. The chat template writes the tools into the prompt. Used with "
        'all formats except "alpaca" and "text".',
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


class Mapping(ApiModel):
    """Keys and roles of messages, if they differ from those of the format."""

    role: str | None = field(
        "Name of the key that contains the role of the author in each message.",
        None,
        edit=Edit.RETRAIN,
        builtin='"role" if format is "messages"; "from" if format is "sharegpt"',
        min_length=1,
        max_length=128,
    )
    content: str | None = field(
        "Name of the key that contains the text in each message.",
        None,
        edit=Edit.RETRAIN,
        builtin='"content" if format is "messages"; "value" if format is "sharegpt"',
        min_length=1,
        max_length=128,
    )
    roles: dict[str, Role] | None = field(
        "Map from role names in the dataset to standard roles. Example: {customer: user, "
        "agent: assistant}. The dataset can use the role names in this map and the standard role "
        "names of the format.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=16,
    )


def _columns_rule(format_: str, parts: tuple[str, ...]) -> Rule:
    first, *others = (
        is_set(f"columns.{part}") for part in Columns.model_fields if part not in parts
    )
    used = sources.listed(tuple(f"columns.{part}" for part in parts))
    foreign: Statement = first
    for other in others:
        foreign |= other
    return excludes(
        equals("format", format_),
        foreign,
        f"rows of the format {format_} use only {used}: remove all other fields of columns, or "
        "change format",
    )


class Rows(ApiModel):
    """Location, format and columns of a dataset."""

    source: str = field(
        "Location of the dataset. hf://org/name: repository on the Hugging Face Hub. "
        "pvc://claim/path: file or folder of a PersistentVolumeClaim in the job's namespace. "
        "s3://bucket/path: object or prefix. https://host/path: one file, or a SHA256SUMS list "
        "of several files. configmap://name/key: small JSONL file in a ConfigMap of the job's "
        "namespace.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CONFIGMAP_SOURCE}|{sources.CLAIM_SOURCE}"
                f"|{sources.S3_SOURCE}|{sources.HTTPS_SOURCE}",
                "write the dataset's source as hf://org/name, pvc://claim/path, s3://bucket/path, "
                "configmap://name/key (a small JSONL file) or https://host/path",
            ),
        ),
    )
    format: Literal["auto", Format] = field(
        'Format of the rows. "alpaca": instruction, input and output. "messages": conversations '
        'in OpenAI format. "sharegpt": conversations with the keys "from" and "value". '
        '"prompt-completion": prompt and completion. "text": text without a template. "auto": the '
        "prepare stage detects the format; writing the detected format starts no new revision.",
        AUTO,
        edit=Edit.RETRAIN,
    )
    revision: str | None = sources.revision("dataset")
    sha256: str | None = sources.sha256("dataset")
    config: str | None = field(
        "Name of the configuration (subset) of a dataset repository on the Hugging Face Hub. "
        'Examples: "main", "all". Used only with hf:// sources.',
        None,
        edit=Edit.RETRAIN,
        unset="the job uses the only configuration or the declared default. If there are several "
        "configurations and no default, the prepare stage fails and lists them",
        max_length=128,
        rules=(
            matches(
                CONFIG,
                "write config as the name of a configuration, such as main, without control "
                'characters and the characters < > : " ` \\ | ? *',
            ),
        ),
    )
    split: str = field(
        'Name of the dataset split to read. Examples: "train", "test".',
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
        "Names of the columns of the dataset. Set only the names that differ from the standard "
        "names of the format.",
        Columns(),
        edit=Edit.RETRAIN,
        builtin="the standard column names of the format",
    )
    mapping: Mapping = field(
        "Names of the keys and roles in the messages of the dataset. Used with format: messages "
        "and format: sharegpt.",
        Mapping(),
        edit=Edit.RETRAIN,
    )
    token_secret_ref: SecretKeyRef | None = sources.token("dataset")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca("dataset")
    s3: S3 = sources.s3("dataset")


def rules(what: sources.Kind) -> tuple[Rule, ...]:
    """Return the rules of a dataset. what: its path in the spec."""
    return (
        *sources.rules(what),
        *(
            sources.only_for(what, *restriction)
            for restriction in sources.SCHEMES_OF_ROWS_FIELD.items()
        ),
        excludes(
            starts_with("source", sources.CONFIGMAP_SOURCE_PREFIX),
            is_set("split") & ~equals("split", "train"),
            f"a ConfigMap has no splits: remove {what}.split",
        ),
        *(_columns_rule(name, parts) for name, parts in COLUMNS_OF_FORMAT.items()),
        excludes(
            equals("format", "alpaca")
            | equals("format", "prompt-completion")
            | equals("format", "text"),
            is_set("mapping.role") | is_set("mapping.content") | is_set("mapping.roles"),
            f"{what}.mapping describes the messages of a conversation: set format: messages or "
            f"format: sharegpt, or remove {what}.mapping",
        ),
    )
