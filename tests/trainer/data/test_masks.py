"""Which tokens are trained: golden examples, token by token, and the prompt that a server sees."""

from typing import Any

import pytest
from tests.trainer.support import tiny

from finetune_trainer.data import prompt_templates
from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.schema import BrokenRow, Message

QUESTION = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yo"}


def renderer(
    *, train_on: str = "responses", template: str = tiny.CHAT_TEMPLATE, tokenizer: Any = None
) -> Renderer:
    tokenizer = tokenizer or tiny.tokenizer()
    return Renderer(tokenizer, template=template, train_on=train_on, stops=[tokenizer.eos_token_id])


def shown(encoded: Encoded, tokenizer: Any = None) -> str:
    """Write a sequence with the trained tokens in square brackets."""
    tokenizer = tokenizer or tiny.tokenizer()
    text, inside = "", False
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORED, token)
        if (label != IGNORED) != inside:
            text += "]" if inside else "["
            inside = not inside
        text += tokenizer.decode([token])
    return text + ("]" if inside else "")


def test_one_answer_token_by_token() -> None:
    (encoded,) = renderer().conversation([QUESTION, ANSWER])
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>]\n"
    assert shown(encoded) == expected
    answer = tiny.tokenizer()("Yo").input_ids
    at = encoded.input_ids.index(answer[0], 20)
    assert encoded.labels[at : at + 3] == [*answer, 0]
    assert [label for label in encoded.labels if label != IGNORED] == [*answer, 0]


def test_every_answer_of_a_conversation_is_trained() -> None:
    messages = [{"role": "system", "content": "S"}, QUESTION, ANSWER, QUESTION, ANSWER]
    (encoded,) = renderer().conversation(messages)
    assert shown(encoded) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[Yo<|im_end|>]\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[Yo<|im_end|>]\n"
    )


def test_all_tokens_where_all_are_asked_for() -> None:
    (encoded,) = renderer(train_on="all").conversation([QUESTION, ANSWER])
    assert shown(encoded) == (
        "[<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n]"
    )


def test_a_text_is_trained_whole_and_ended_once() -> None:
    tokenizer = tiny.tokenizer(bos=True)
    (encoded,) = renderer(tokenizer=tokenizer).text("ab")
    assert shown(encoded, tokenizer) == "[<s>ab<|im_end|>]"
    (encoded,) = renderer(tokenizer=tokenizer).text("ab<|im_end|>")
    assert shown(encoded, tokenizer) == "[<s>ab<|im_end|>]"


def test_alpaca_with_and_without_input() -> None:
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


def test_the_trained_prompt_is_the_one_that_a_server_makes() -> None:
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


def test_a_template_that_drops_earlier_reasoning_gives_each_answer_its_own_history() -> None:
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


def test_a_template_without_an_end_gets_one() -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    (encoded,) = renderer(template=template).conversation([QUESTION, ANSWER])
    assert shown(encoded) == "Hi[Yo<|im_end|>]"


def test_a_token_that_would_span_prompt_and_answer_is_not_trained() -> None:
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
            "renders answer 1 differently from the prompt",
        ),
        ("{{ raise_exception('roles must alternate') }}", "refuses it: roles must alternate"),
    ],
)
def test_templates_that_cannot_be_trained_say_why(template: str, said: str) -> None:
    with pytest.raises(BrokenRow, match=said):
        renderer(template=template).conversation([QUESTION, ANSWER])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_labels_are_never_shifted(count: int) -> None:
    messages: list[Message] = [QUESTION, ANSWER] * count
    (encoded,) = renderer().conversation(messages)
    assert len(encoded.labels) == len(encoded.input_ids)
    assert sum(label != IGNORED for label in encoded.labels) == 3 * count
