"""``spec.dataset`` of a FineTuneJob: the rows to train on, and how a prompt is made of one."""

from typing import Any, ClassVar, Literal

from finetune_api import sources
from finetune_api.fields import ApiModel, Edit, Rule, between, field, matches
from finetune_api.objects import ConfigMapKeyRef, SecretKeyRef
from finetune_api.sources import S3

PROMPT_PLACE = "{prompt}"
"""Where a promptFormat takes the prompt."""

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


class Dataset(ApiModel):
    """The rows to train on."""

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
        "Split of the dataset to train on.",
        "train",
        edit=Edit.RETRAIN,
        max_length=128,
        rules=(matches(r"^[A-Za-z0-9_.-]+$", "a split is one name, such as train"),),
    )
    validation_fraction: float | None = field(
        "Share of the rows that is held out for evaluation; 0 holds out none. "
        "Rows are chosen by a hash of their content and the seed.",
        None,
        edit=Edit.RETRAIN,
        builtin="0.05 from 400 rows on, none below",
        rules=(
            between(
                0, 0.5, "validationFraction is a share of the rows: from 0 to 0.5, such as 0.05"
            ),
        ),
    )
    max_samples: int | None = field(
        "Train on the first rows only, this many.",
        None,
        edit=Edit.RETRAIN,
        builtin="all rows",
        ge=1,
    )
    prompt_template: Literal["auto", "chat", "alpaca"] = field(
        "How a prompt is rendered: chat (the base's chat template), alpaca (the Alpaca prompt), "
        "or auto: the chat template where the base has one, the Alpaca prompt otherwise. The "
        "endpoint's chat template renders the same prompt that was trained.",
        "auto",
        edit=Edit.RETRAIN,
    )
    prompt_format: str | None = field(
        "Own prompt, with {prompt} where the instruction and its input (or the prompt column) go, "
        "such as 'Question: {prompt}\\nAnswer: '. The endpoint's chat template renders the same.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=4096,
        rules=(
            Rule(
                cel="self.contains('{prompt}') "
                "&& self.indexOf('{prompt}') == self.lastIndexOf('{prompt}')",
                message="write {prompt} exactly once in promptFormat, where the prompt goes",
                fails=lambda text: text.count(PROMPT_PLACE) != 1,
            ),
        ),
    )
    chat_template: str | None = field(
        "Own chat template, in Jinja, in place of the base's. The merged model ships it.",
        None,
        edit=Edit.RETRAIN,
        builtin="the base's own",
        min_length=1,
        max_length=65536,
    )
    duplicates: Literal["keep", "drop"] = field(
        "Rows with the same content: kept, or dropped but for the first. They are counted either "
        "way.",
        "keep",
        edit=Edit.RETRAIN,
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
    rules: ClassVar[tuple[Rule, ...]] = (
        *sources.rules("dataset"),
        Rule(
            cel="!self.source.startsWith('configmap://') || !has(self.split) "
            "|| self.split == 'train'",
            message="a ConfigMap has no splits: remove dataset.split",
            fails=lambda d: d.source.startswith("configmap://") and d.split != "train",
        ),
        Rule(
            cel="!has(self.promptTemplate) || self.promptTemplate != 'alpaca' "
            "|| self.format == 'alpaca'",
            message="promptTemplate alpaca renders rows of format alpaca only: "
            "set format: alpaca, or leave promptTemplate out",
            fails=lambda d: d.prompt_template == "alpaca" and d.format != "alpaca",
        ),
        Rule(
            cel="!has(self.promptTemplate) || self.promptTemplate == 'auto' "
            "|| self.format != 'text'",
            message="rows of format text are trained as they are: remove promptTemplate",
            fails=lambda d: d.prompt_template == "chat" and d.format == "text",
        ),
        Rule(
            cel="!has(self.chatTemplate) || !has(self.promptFormat)",
            message="chatTemplate and promptFormat exclude each other: remove one of them",
            fails=lambda d: d.chat_template is not None and d.prompt_format is not None,
        ),
        Rule(
            cel="!(has(self.chatTemplate) || has(self.promptFormat)) "
            "|| ((!has(self.promptTemplate) || self.promptTemplate != 'alpaca') "
            "&& self.format != 'text')",
            message="chatTemplate and promptFormat take the place of the base's chat template, "
            "which promptTemplate alpaca and format text do not use: remove one of the two",
            fails=lambda d: (
                (d.chat_template is not None or d.prompt_format is not None)
                and (d.prompt_template == "alpaca" or d.format == "text")
            ),
        ),
        Rule(
            cel="!has(self.promptFormat) || self.format != 'messages'",
            message="promptFormat renders one prompt and its answer: write a chatTemplate for "
            "conversations",
            fails=lambda d: d.prompt_format is not None and d.format == "messages",
        ),
        *(_columns_rule(name, parts) for name, parts in COLUMNS_OF_FORMAT.items()),
    )
