"""``spec.dataset`` of a FineTuneJob: the training rows, and how prompts are rendered from them."""

from typing import ClassVar, Literal

from finetune_api.markers import Edit, field
from finetune_api.rules import Rule, between, equals, excludes, is_set, requires
from finetune_api.v1alpha1 import rows
from finetune_api.v1alpha1.rows import Rows

PROMPT_PLACEHOLDER = "{prompt}"
"""Replaced by the prompt in a promptFormat."""

_OWN_TEMPLATE = is_set("chatTemplate") | is_set("promptFormat")


class Dataset(Rows):
    """The rows to train on."""

    validation_fraction: float | None = field(
        "Fraction of the rows to hold out for evaluation; 0 holds out none. Rows are selected by a "
        "hash of their content and the seed.",
        None,
        edit=Edit.RETRAIN,
        builtin="0.05 for datasets of at least 400 rows; otherwise, and with an "
        "evaluation.dataset, 0",
        rules=(between(0, 0.5, "set validationFraction to a value from 0 to 0.5, such as 0.05"),),
    )
    prompt_template: Literal["auto", "chat", "alpaca"] = field(
        "Template that renders a prompt: chat (the chat template of the base model), alpaca (the "
        "Alpaca prompt), or auto (chat if the base model has a chat template, alpaca otherwise). "
        "The chat template of the endpoint renders the same prompt.",
        "auto",
        edit=Edit.RETRAIN,
    )
    prompt_format: str | None = field(
        "Custom prompt in which {prompt} is replaced by the instruction with its input, or by the "
        "prompt column, such as 'Question: {prompt}\\nAnswer: '. The chat template of the endpoint "
        "renders the same prompt.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=4096,
        rules=(
            Rule(
                cel="self.contains('{prompt}') "
                "&& self.indexOf('{prompt}') == self.lastIndexOf('{prompt}')",
                message="write {prompt} exactly once in promptFormat, in place of the prompt",
                fails=lambda text: text.count(PROMPT_PLACEHOLDER) != 1,
            ),
        ),
    )
    chat_template: str | None = field(
        "Custom chat template in Jinja. It replaces the chat template of the base model in "
        "training and in the merged model.",
        None,
        edit=Edit.RETRAIN,
        builtin="the chat template of the base model",
        min_length=1,
        max_length=65536,
    )
    duplicates: Literal["keep", "drop"] = field(
        "Whether rows with the same content are kept, or dropped except for the first. Duplicates "
        "are counted in the status in both cases.",
        "keep",
        edit=Edit.RETRAIN,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        *rows.rules("dataset"),
        requires(
            equals("promptTemplate", "alpaca"),
            equals("format", "alpaca"),
            "promptTemplate alpaca renders rows of format alpaca only: set format: alpaca, or "
            "remove promptTemplate",
        ),
        excludes(
            equals("promptTemplate", "chat"),
            equals("format", "text"),
            "rows of format text are trained unchanged, without a prompt: remove promptTemplate",
        ),
        excludes(
            is_set("chatTemplate"),
            is_set("promptFormat"),
            "chatTemplate and promptFormat exclude each other: remove one of them",
        ),
        excludes(
            _OWN_TEMPLATE,
            equals("promptTemplate", "alpaca") | equals("format", "text"),
            "chatTemplate and promptFormat replace the chat template of the base model, which is "
            "not used with promptTemplate alpaca or format text: remove one of the two",
        ),
        excludes(
            is_set("promptFormat"),
            equals("format", "messages"),
            "promptFormat renders a single prompt, not a conversation: use chatTemplate with "
            "format messages",
        ),
    )
