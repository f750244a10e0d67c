"""The labels of conversations, token by token, and the equality with prompts of requests."""

from typing import Any

import pytest
from tests.support.trainer import tiny

from finetune_trainer.data import prompt_templates
from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.rows.conversations import BrokenRow, Message

QUESTION = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yo"}


def renderer(
    *, train_on: str = "responses", template: str = tiny.CHAT_TEMPLATE, tokenizer: Any = None
) -> Renderer:
    tokenizer = tokenizer or tiny.tokenizer()
    return Renderer(tokenizer, template=template, train_on=train_on, stops=[tokenizer.eos_token_id])


def shown(encoded: Encoded, tokenizer: Any = None) -> str:
    """Return a sequence as text, with the trained tokens in square brackets."""
    tokenizer = tokenizer or tiny.tokenizer()
    text, inside = "", False
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORED, token)
        if (label != IGNORED) != inside:
            text += "]" if inside else "["
            inside = not inside
        text += tokenizer.decode([token])
    return text + ("]" if inside else "")


def test_labels_of_one_answer() -> None:
    (encoded,) = renderer().conversation([QUESTION, ANSWER])
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>]\n"
    assert shown(encoded) == expected
    answer = tiny.tokenizer()("Yo").input_ids
    at = encoded.input_ids.index(answer[0], 20)
    assert encoded.labels[at : at + 3] == [*answer, 0]
    assert [label for label in encoded.labels if label != IGNORED] == [*answer, 0]


def test_labels_cover_every_answer_of_a_conversation() -> None:
    messages = [{"role": "system", "content": "S"}, QUESTION, ANSWER, QUESTION, ANSWER]
    (encoded,) = renderer().conversation(messages)
    assert shown(encoded) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[Yo<|im_end|>]\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[Yo<|im_end|>]\n"
    )


def test_labels_cover_all_tokens_with_train_on_all() -> None:
    (encoded,) = renderer(train_on="all").conversation([QUESTION, ANSWER])
    assert shown(encoded) == (
        "[<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n]"
    )


def test_text_is_trained_in_full_with_one_end_token() -> None:
    tokenizer = tiny.tokenizer(bos=True)
    (encoded,) = renderer(tokenizer=tokenizer).text("ab")
    assert shown(encoded, tokenizer) == "[<s>ab<|im_end|>]"
    (encoded,) = renderer(tokenizer=tokenizer).text("ab<|im_end|>")
    assert shown(encoded, tokenizer) == "[<s>ab<|im_end|>]"


def test_alpaca_prompt_with_and_without_input() -> None:
    tokenizer = tiny.tokenizer(bos=True)
    template = prompt_templates.alpaca(with_bos=True)
    alpaca = renderer(template=template, tokenizer=tokenizer)
    (encoded,) = alpaca.conversation([QUESTION, ANSWER])
    assert shown(encoded, tokenizer) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nHi\n\n### Response:\n[Yo<|im_end|>]"
    )
    asked = {"role": "user", "content": "Hi" + prompt_templates.ALPACA_INPUT + "there"}
    (encoded,) = alpaca.conversation([asked, ANSWER])
    assert shown(encoded, tokenizer) == (
        "<s>Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Input:\nthere\n\n### Response:\n[Yo<|im_end|>]"
    )


def test_trained_prompt_equals_the_request_prompt() -> None:
    tokenizer = tiny.tokenizer()
    messages = [QUESTION, ANSWER, {"role": "user", "content": "And?"}, ANSWER]
    (encoded,) = renderer().conversation(messages)
    for turn in (1, 3):
        prompt = tokenizer.apply_chat_template(
            messages[:turn], add_generation_prompt=True, return_dict=False
        )
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt)] == encoded.input_ids[len(prompt)] != IGNORED
        assert encoded.labels[len(prompt) - 1] == IGNORED


def test_template_that_drops_reasoning_gives_one_sequence_per_answer() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'][0] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}T{% endif %}{{ m['content'] }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>a\n{% endif %}"
    )
    first, second = renderer(template=template).conversation([QUESTION, ANSWER] * 2)
    assert shown(first) == "<|im_start|>u\nHi<|im_end|><|im_start|>a\n[TYo<|im_end|>]"
    assert shown(second) == (
        "<|im_start|>u\nHi<|im_end|><|im_start|>a\nYo<|im_end|>"
        "<|im_start|>u\nHi<|im_end|><|im_start|>a\n[TYo<|im_end|>]"
    )


def test_missing_end_token_is_appended() -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    (encoded,) = renderer(template=template).conversation([QUESTION, ANSWER])
    assert shown(encoded) == "Hi[Yo<|im_end|>]"


def test_no_token_spans_prompt_and_answer() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["\nY"])
    (encoded,) = renderer(tokenizer=tokenizer).conversation([QUESTION, ANSWER])
    prompt = tokenizer.apply_chat_template(
        [QUESTION], add_generation_prompt=True, return_dict=False
    )
    assert encoded.input_ids[: len(prompt)] == prompt
    assert shown(encoded, tokenizer).endswith("assistant\n[Yo<|im_end|>]\n")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}<think>{% endif %}",
            "message 1 is an answer, and the chat template renders the messages before it",
        ),
        (
            "{{ raise_exception('roles must alternate') }}",
            "fails on this row: roles must alternate",
        ),
    ],
)
def test_template_that_fails_is_refused(template: str, said: str) -> None:
    with pytest.raises(BrokenRow, match=said):
        renderer(template=template).conversation([QUESTION, ANSWER])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_labels_are_not_shifted(count: int) -> None:
    messages: list[Message] = [QUESTION, ANSWER] * count
    (encoded,) = renderer().conversation(messages)
    assert len(encoded.labels) == len(encoded.input_ids)
    assert sum(label != IGNORED for label in encoded.labels) == 3 * count
