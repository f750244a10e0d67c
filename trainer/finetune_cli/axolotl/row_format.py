"""Converts the ``type`` of a dataset to ``format`` and ``columns``.

A type whose prompt a job cannot render is rejected. Source: axolotl, utils/data/wrappers.py and
prompt_strategies.
"""

from typing import Any

from finetune_cli.axolotl import messages
from finetune_cli.axolotl.reader import Settings

ALPACA = ("alpaca", "alpaca:instruct", "alpaca_instruct.load")
"""Types with the Alpaca prompt; other styles of alpaca have other prompts, such as ``USER: …``."""
TEXTS = ("completion", "pretrain")
PARTS = ("instruction", "input", "output")


def row_format(one: Settings) -> dict[str, Any]:
    """Return format, columns and mapping of the rows of a dataset. Raises Refusal."""
    kind = one.take("type")
    if isinstance(kind, dict):
        one.dropped(
            "type",
            "is a custom prompt, but the job renders instruction and input as promptTemplate says: "
            "with the chat template of the base model, or with the Alpaca prompt. To use a prompt "
            "of your own, set promptFormat",
        )
        columns = {part: kind.get(f"field_{part}") for part in PARTS}
        return with_columns("alpaca", columns)
    if kind in ALPACA:
        return {"format": "alpaca"}
    if kind in TEXTS:
        one.changed(
            "type",
            "Axolotl cuts a long text into pieces of sequence_len tokens and trains on all pieces. "
            "The job leaves out a text that is longer than training.sequenceLength, or cuts off "
            "its end (training.advanced.overlong): split long texts in the dataset",
        )
        return with_columns("text", {"text": one.text("field")})
    if kind in messages.TYPES:
        return messages.conversation(one, str(kind))
    if kind is None:
        raise one.refusal("type", "is missing: set it, such as chat_template or alpaca")
    raise one.refusal(
        "type",
        "is not supported, because a job cannot render the prompt of this type. Set type to "
        "chat_template (conversations), alpaca (instruction, input and output) or completion "
        "(text), and convert the rows if their columns differ",
    )


def is_custom(one: Settings) -> bool:
    """Report whether the type of a dataset is a prompt of its own."""
    return isinstance(one.take("type"), dict)


def with_columns(format_: str, columns: dict[str, Any]) -> dict[str, Any]:
    """Return format and columns. columns: part of a row → name of its column, or None."""
    named = {part: str(name) for part, name in columns.items() if name and name != part}
    return {"format": format_, **({"columns": named} if named else {})}
