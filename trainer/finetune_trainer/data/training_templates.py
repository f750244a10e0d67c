"""TRL's training templates: published chat templates with markers around the answers.

TRL ships them as pairs of files, ``qwen2_5.jinja`` and ``qwen2_5_training.jinja``.
"""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2

SUFFIX = "_training.jinja"


def training_template(text: str) -> str | None:
    """Return a chat template with markers around the answers; None if TRL has none for it.

    text: a published template, which can follow the macro that fixes its date.
    """
    return next(
        (
            text.removesuffix(published) + marked
            for published, marked in _pairs()
            if text.endswith(published)
        ),
        None,
    )


def render(
    template: str, messages: list[dict[str, Any]], tokenizer: Any, *, tools: Any
) -> tuple[str, list[int]] | None:
    """Return the rendering of a training template, and where each marked answer ends in it.

    None if the template rejects the messages.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, spans = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    except (
        RecursionError, jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError,
    ):  # fmt: skip
        return None
    return str(texts[0]), [int(end) for _, end in spans[0]]


@functools.cache
def _pairs() -> tuple[tuple[str, str], ...]:
    """Return the published templates with their training templates, without importing TRL."""
    spec = find_spec("trl")
    places = spec.submodule_search_locations if spec is not None else None
    files = [path for place in places or () for path in Path(place, "chat_templates").iterdir()]
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(files)}
    return tuple(
        (texts[published], marked)
        for name, marked in texts.items()
        if name.endswith(SUFFIX) and (published := f"{name.removesuffix(SUFFIX)}.jinja") in texts
    )
