"""``spec.dataset`` of a FineTuneJob: the rows to train on, and how a prompt is made of one."""

from typing import ClassVar, Literal

from finetune_api.markers import Edit, Rule, between, field
from finetune_api.v1alpha1 import rows
from finetune_api.v1alpha1.rows import Rows

PROMPT_PLACE = "{prompt}"
"""Where a promptFormat takes the prompt."""


class Dataset(Rows):
    """The rows to train on."""

    validation_fraction: float | None = field(
        "Share of the rows that is held out for evaluation; 0 holds out none. "
        "Rows are chosen by a hash of their content and the seed.",
        None,
        edit=Edit.RETRAIN,
        builtin="0.05 from 400 rows on, none below and none beside an evaluation.dataset",
        rules=(
            between(
                0, 0.5, "validationFraction is a share of the rows: from 0 to 0.5, such as 0.05"
            ),
        ),
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
    rules: ClassVar[tuple[Rule, ...]] = (
        *rows.rules("dataset"),
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
    )
