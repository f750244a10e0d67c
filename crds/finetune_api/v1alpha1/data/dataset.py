"""``spec.dataset`` of a FineTuneJob: the training rows, and how prompts are rendered from them.

What data preparation determines about the datasets is in ``statistics``.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from finetune_api.markers import Edit, field
from finetune_api.rules import Rule, between, equals, excludes, is_set, matches
from finetune_api.v1alpha1.data import rows
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.sources import Kind, prefix_of

PROMPT_PLACEHOLDER = "{prompt}"
"""Replaced by the prompt in a promptFormat."""

_OWN_TEMPLATE = is_set("chatTemplate") | is_set("promptFormat")


class Dataset(Rows):
    """The rows to train on."""

    validation_fraction: float | None = field(
        "Fraction of the rows to hold out for evaluation. If 0, no rows are held out. The trainer "
        "hashes each row together with training.seed, and holds out the rows with the smallest "
        "hashes. Rows with the same content are held out together.",
        None,
        edit=Edit.RETRAIN,
        builtin="0 if evaluation.dataset is set or the dataset has fewer than 100 rows; otherwise "
        "0.05 (at least 20 rows)",
        rules=(between(0, 0.5, "set validationFraction to a value from 0 to 0.5, such as 0.05"),),
    )
    prompt_template: Literal["auto", "chat", "alpaca"] = field(
        'Template that renders prompts in training and at the serving endpoint. "chat": the chat '
        'template of the base model. "alpaca": the Alpaca prompt. "auto": "chat" if the base '
        'model has a chat template, otherwise "alpaca".',
        "auto",
        edit=Edit.RETRAIN,
    )
    prompt_format: str | None = field(
        "Custom prompt for training and for the serving endpoint. Example: 'Question: "
        "{prompt}\\nAnswer: '. The placeholder {prompt} stands for the prompt of a row. With "
        "format: alpaca, it stands for the instruction and the input of the row.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=4096,
        rules=(
            Rule(
                cel="self.contains('{prompt}') "
                "&& self.indexOf('{prompt}') == self.lastIndexOf('{prompt}')",
                message="write {prompt} exactly once in promptFormat, at the position of the "
                "prompt",
                fails=lambda text: text.count(PROMPT_PLACEHOLDER) != 1,
            ),
        ),
    )
    chat_template: str | None = field(
        "Custom chat template in Jinja. This template replaces the chat template of the base "
        "model in training and at the serving endpoint.",
        None,
        edit=Edit.RETRAIN,
        builtin="the chat template of the base model",
        min_length=1,
        max_length=65536,
    )
    duplicates: Literal["keep", "drop"] = field(
        'Treatment of rows that have the same content as an earlier row. "keep": keep these rows. '
        '"drop": leave out these rows. With both values, '
        "status.revisions[].data.duplicateRows is the number of these rows.",
        "keep",
        edit=Edit.RETRAIN,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        *rows.rules("dataset"),
        excludes(
            equals("promptTemplate", "alpaca"),
            is_set("format") & ~equals("format", "alpaca") & ~equals("format", "auto"),
            "the Alpaca prompt renders only rows in the alpaca format: set format: alpaca, or "
            "remove promptTemplate",
        ),
        excludes(
            equals("promptTemplate", "chat"),
            equals("format", "text"),
            "training uses rows in the text format unchanged, without a prompt template: remove "
            "promptTemplate",
        ),
        excludes(
            is_set("chatTemplate"),
            is_set("promptFormat"),
            "chatTemplate and promptFormat are mutually exclusive: remove one of them",
        ),
        excludes(
            _OWN_TEMPLATE,
            equals("promptTemplate", "alpaca") | equals("format", "text"),
            "chatTemplate and promptFormat have no effect on the Alpaca prompt and on rows in the "
            "text format: remove chatTemplate and promptFormat, or change promptTemplate or format",
        ),
        excludes(
            is_set("promptFormat"),
            equals("format", "messages") | equals("format", "sharegpt"),
            "promptFormat renders a single prompt, but rows with format: messages or format: "
            "sharegpt are conversations: remove promptFormat, and set chatTemplate instead",
        ),
    )


COMMON_FIELDS = (
    "validationFraction",
    "promptTemplate",
    "promptFormat",
    "chatTemplate",
    "duplicates",
)
"""Fields of an entry of ``spec.datasets`` that apply to all datasets."""


class NamedDataset(Dataset):
    """One of several datasets."""

    name: str = field(
        'Name of the dataset. Example: "support". The name appears in messages, in the status and '
        "in metrics.",
        edit=Edit.RETRAIN,
        max_length=24,
        rules=(
            matches(
                r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                "write the name of a dataset with lower-case letters, digits and '-'",
            ),
        ),
    )
    weight: float = field(
        "Number of passes over the rows of the dataset in each epoch. If the value is not an "
        "integer, the last pass uses only a part of the rows. The selection of this part "
        "depends on training.seed and is the same in each epoch.",
        1.0,
        edit=Edit.RETRAIN,
        rules=(between(0.001, 100, "set weight to a value from 0.001 to 100, such as 0.5"),),
    )


def path_of(dataset: NamedDataset) -> Kind:
    """Return the path of a training dataset, as messages name it."""
    return f"datasets[{dataset.name}]" if dataset.name else "dataset"


def by_path(
    dataset: Dataset | None, datasets: Sequence[NamedDataset] | None
) -> dict[Kind, NamedDataset]:
    """Return all training datasets of a job by their paths. A single one has no name."""
    if datasets is None:
        assert dataset is not None
        values = {**dict(dataset), "name": "", "weight": 1.0}
        datasets = [NamedDataset.model_construct(dataset.model_fields_set, **values)]
    return {path_of(entry): entry for entry in datasets}


_WORDS = "{}.name.split('-').filter(word, word != '')"
"""The part of a name that ``prefix_of`` keeps, in CEL: the runs of '-' become one separator."""

OWN_VARIABLES = Rule(
    cel="self.all(one, self.all(other, one.name == other.name "
    f"|| {_WORDS.format('one')} != {_WORDS.format('other')}))",
    message="the names of two datasets differ only in the number of consecutive '-' characters, so "
    "each dataset would get the credentials of the other one: change one of the names",
    fails=lambda datasets: (
        len({prefix_of(path_of(dataset)) for dataset in datasets})
        < len({dataset.name for dataset in datasets})
    ),
)
"""The rule that no two datasets of a job have the same prefix of environment variables.

Revisions keep the image of their trainer, so the prefix of a name can never change.
"""
