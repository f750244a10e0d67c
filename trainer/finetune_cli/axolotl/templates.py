"""Converts ``chat_template``: a name in Axolotl, a Jinja text in ``dataset.chatTemplate``.

A job uses the chat template of its base. Base models without instruction tuning usually have none.
For them, the templates here are written into the job.
"""

import re

from finetune_cli.axolotl.data import Entry
from finetune_cli.axolotl.reader import Settings

OF_THE_BASE = ("tokenizer_default", "jinja")
CHAT_MODEL = re.compile(
    r"instruct|chat|assistant|orchestrator|[-_]it([-_]|$)|qwen3(?!.*base)", re.I
)
"""Names of models that have a chat template."""

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "{{ message['content'] | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}
"""Name in Axolotl → template. They have the marks of their families, and no tools."""


def chat_template(settings: Settings, entries: list[Entry], *, base: str) -> str | None:
    """Return ``dataset.chatTemplate`` for a base and the datasets, or None.

    The only dataset can have a template of its own; several datasets have the one of the job.
    """
    if len(entries) == 1 and entries[0].settings.take("chat_template", "chat_template_jinja"):
        settings.take("chat_template", "chat_template_jinja")
        settings = entries[0].settings
    name, text = settings.text("chat_template"), settings.text("chat_template_jinja")
    conversations = any(entry.is_conversation for entry in entries)
    if text and conversations:
        if "{" not in text:
            raise settings.refusal(
                "chat_template_jinja", "names a file: write the text of the template instead"
            )
        return text
    if name is None or name in OF_THE_BASE:
        return None
    if not conversations:
        settings.equivalent("chat_template", "has no effect on rows that are not conversations")
        return None
    fallback = name.removeprefix("tokenizer_default_fallback_")
    if CHAT_MODEL.search(base) or fallback != name:
        settings.changed("chat_template", "the job uses the chat template of the base model")
        return None
    if name in TEMPLATES:
        settings.changed(
            "chat_template",
            f"the job sets dataset.chatTemplate, because {base} probably has no chat template; "
            "if it has one, remove dataset.chatTemplate to use the template of the base model",
        )
        return TEMPLATES[name]
    settings.dropped(
        "chat_template",
        f"the job uses the chat template of the base model; if {base} has none, set "
        "dataset.chatTemplate",
    )
    return None
