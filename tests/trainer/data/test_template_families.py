"""The labels of the chat templates of well-known model families, token by token."""

from dataclasses import replace
from datetime import date
from importlib.resources import files
from typing import Any

import pytest
from tests.support.trainer import template_families, tiny
from tests.support.trainer.template_families import Family

from finetune_api.v1alpha1.data.dataset import Dataset
from finetune_trainer.data import prompt_templates
from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.rows.conversations import BrokenRow, Message
from finetune_trainer.data.rows.schema import example_of
from finetune_trainer.errors import InvalidSpec

TODAY = date(2030, 7, 26)
SYSTEM = {"role": "system", "content": "Answer briefly."}
ASKED = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris."}
AGAIN = {"role": "user", "content": "And its date?"}
THEN = {"role": "assistant", "content": "Today."}

Parts = list[tuple[str, bool]]
"""Pieces of a sequence, each with a flag for trained pieces. Pieces are tokenized separately."""

HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
USER, ASSISTANT, SYSTEM_ROLE = (HEADER.format(role) for role in ("user", "assistant", "system"))
QUESTION, SECOND = ASKED["content"], AGAIN["content"]
DATED = f"<|begin_of_text|>{SYSTEM_ROLE}Today Date: 26 Jul 2030\n\n"
CHATML = "<|im_start|>user\n" + QUESTION + "<|im_end|>\n<|im_start|>assistant\n"
AND = "\n<|im_start|>user\n" + SECOND + "<|im_end|>\n<|im_start|>assistant\n"
PLAIN = "<|im_start|>system\nAnswer in plain words.<|im_end|>\n"
BRIEFLY = "<|im_start|>system\nAnswer briefly.<|im_end|>\n"
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ONE, TWO = [ASKED, ANSWER], [ASKED, ANSWER, AGAIN, THEN]

GOLDEN: list[tuple[Family, list[Message], list[Parts]]] = [
    (
        template_families.LLAMA_3,
        ONE,
        [
            [
                (f"<|begin_of_text|>{USER}{QUESTION}<|eot_id|>{ASSISTANT}", False),
                ("Paris.<|eot_id|>", True),
            ]
        ],
    ),
    (
        template_families.LLAMA_3,
        [SYSTEM, *TWO],
        [
            [
                (
                    f"<|begin_of_text|>{SYSTEM_ROLE}Answer briefly.<|eot_id|>{USER}{QUESTION}"
                    f"<|eot_id|>{ASSISTANT}",
                    False,
                ),
                ("Paris.<|eot_id|>", True),
                (f"{USER}{SECOND}<|eot_id|>{ASSISTANT}", False),
                ("Today.<|eot_id|>", True),
            ]
        ],
    ),
    (
        template_families.LLAMA_3_1,
        ONE,
        [
            [
                (f"{DATED}<|eot_id|>{USER}{QUESTION}<|eot_id|>{ASSISTANT}", False),
                ("Paris.<|eot_id|>", True),
            ]
        ],
    ),
    (
        template_families.LLAMA_3_1,
        [SYSTEM, *TWO],
        [
            [
                (
                    f"{DATED}Answer briefly.<|eot_id|>{USER}{QUESTION}<|eot_id|>{ASSISTANT}",
                    False,
                ),
                ("Paris.<|eot_id|>", True),
                (f"{USER}{SECOND}<|eot_id|>{ASSISTANT}", False),
                ("Today.<|eot_id|>", True),
            ]
        ],
    ),
    (
        template_families.QWEN,
        ONE,
        [[(PLAIN + CHATML, False), ("Paris.<|im_end|>", True), ("\n", False)]],
    ),
    (
        template_families.QWEN,
        [SYSTEM, *TWO],
        [
            [
                (BRIEFLY + CHATML, False),
                ("Paris.<|im_end|>", True),
                (AND, False),
                ("Today.<|im_end|>", True),
                ("\n", False),
            ]
        ],
    ),
    (
        template_families.QWEN_3,
        TWO,
        # The first answer is trained with the reasoning, which the history of the second answer
        # omits.
        [
            [
                (CHATML, False),
                ("<think>\n\n</think>\n\nParis.<|im_end|>", True),
                ("\n", False),
            ],
            [
                (CHATML + "Paris.<|im_end|>" + AND, False),
                ("<think>\n\n</think>\n\nToday.<|im_end|>", True),
                ("\n", False),
            ],
        ],
    ),
    (
        template_families.MISTRAL,
        ONE,
        [[(f"<s>[INST] {QUESTION}[/INST]", False), (" Paris.</s>", True)]],
    ),
    (
        template_families.MISTRAL,
        TWO,
        [
            [
                (f"<s>[INST] {QUESTION}[/INST]", False),
                (" Paris.</s>", True),
                (f"[INST] {SECOND}[/INST]", False),
                (" Today.</s>", True),
            ]
        ],
    ),
    (
        template_families.MISTRAL,
        [SYSTEM, *TWO],
        # Each answer follows the prompt of a request at that point.
        [
            [
                (f"<s>[INST] Answer briefly.\n\n{QUESTION}[/INST]", False),
                (" Paris.</s>", True),
            ],
            [
                (
                    f"<s>[INST] {QUESTION}[/INST] Paris.</s>[INST] Answer briefly.\n\n{SECOND}"
                    "[/INST]",
                    False,
                ),
                (" Today.</s>", True),
            ],
        ],
    ),
    (
        template_families.SMOLLM,
        ONE,
        [[(HELPFUL + CHATML, False), ("Paris.<|im_end|>", True), ("\n", False)]],
    ),
    (
        template_families.SMOLLM,
        [SYSTEM, *TWO],
        [
            [
                (BRIEFLY + CHATML, False),
                ("Paris.<|im_end|>", True),
                (AND, False),
                ("Today.<|im_end|>", True),
                ("\n", False),
            ]
        ],
    ),
    (
        template_families.GEMMA,
        TWO,
        [
            [
                (
                    f"<bos><start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
                    False,
                ),
                ("Paris.<end_of_turn>", True),
                (
                    f"\n<start_of_turn>user\n{SECOND}<end_of_turn>\n<start_of_turn>model\n",
                    False,
                ),
                ("Today.<end_of_turn>", True),
                ("\n", False),
            ]
        ],
    ),
    (
        template_families.PHI,
        ONE,
        [
            [
                (f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n", False),
                ("Paris.<|end|>", True),
                ("\n<|endoftext|>", False),
            ]
        ],
    ),
]


def encode(
    family: Family, messages: list[Message], *, train_on: str = "responses"
) -> list[Encoded]:
    """Encode a conversation like the prepare stage, with a fixed date."""
    dataset = Dataset(source="hf://a/b", format="messages")
    template = prompt_templates.choose(dataset, family.tokenizer(), source="a/b", today=TODAY)
    renderer = Renderer(
        family.tokenizer(), template=template.text, train_on=train_on, stops=family.stop_ids()
    )
    return renderer.conversation(messages)


def tokens(family: Family, parts: Parts) -> tuple[list[int], list[int]]:
    """Tokenize the pieces separately; return ids and labels."""
    ids, labels = list[int](), list[int]()
    for text, trained in parts:
        own = family.tokenizer()(text, add_special_tokens=False).input_ids
        ids += own
        labels += own if trained else [IGNORED] * len(own)
    return ids, labels


@pytest.mark.parametrize(
    ("family", "messages", "expected"),
    [pytest.param(*case, id=f"{case[0].name}-{len(case[1])}-messages") for case in GOLDEN],
)
def test_golden_masks(family: Family, messages: list[Message], expected: list[Parts]) -> None:
    found = encode(family, messages)
    assert [(each.input_ids, each.labels) for each in found] == [
        tokens(family, parts) for parts in expected
    ]


PUBLISHED: dict[str, tuple[str, dict[str, str]]] = {
    "Llama-3": ("llama3", {}),
    "Llama-3.1": (
        "llama3_1",
        {
            "Today Date: 26 Jul 2030": (
                "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024"
            )
        },
    ),
    "Qwen": (
        "qwen2_5",
        {
            "Answer in plain words.": (
                "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
            )
        },
    ),
    "Qwen-3": ("qwen3", {}),
    "Gemma": ("gemma", {}),
    "Phi": ("phi3", {}),
}
"""Families whose original template is part of TRL: its file, and texts that differ."""


@pytest.mark.parametrize(
    ("family", "messages", "expected"),
    [
        pytest.param(*case, id=f"{case[0].name}-{len(case[1])}-messages")
        for case in GOLDEN
        if case[0].name in PUBLISHED
    ],
)
def test_golden_masks_of_published_templates(
    family: Family, messages: list[Message], expected: list[Parts]
) -> None:
    file, words = PUBLISHED[family.name]
    template = files("trl").joinpath("chat_templates", f"{file}.jinja").read_text()
    for ours, theirs in words.items():
        expected = [[(text.replace(ours, theirs), on) for text, on in each] for each in expected]
    found = encode(replace(family, template=template), messages)
    assert [(each.input_ids, each.labels) for each in found] == [
        tokens(family, parts) for parts in expected
    ]


@pytest.mark.parametrize(
    ("family", "messages"),
    [pytest.param(*case[:2], id=f"{case[0].name}-{len(case[1])}-messages") for case in GOLDEN],
)
def test_every_answer_follows_the_request_prompt(family: Family, messages: list[Message]) -> None:
    template = prompt_templates.freeze(family.template, TODAY)[0]
    found = encode(family, messages)
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = family.tokenizer().apply_chat_template(
                messages[:at], add_generation_prompt=True, chat_template=template, return_dict=False
            )
            behind = [
                each.labels[len(prompt)]
                for each in found
                if each.input_ids[: len(prompt)] == prompt and len(each) > len(prompt)
            ]
            assert [label for label in behind if label != IGNORED]


@pytest.mark.parametrize(
    "family", [template_families.LLAMA_3, template_families.SMOLLM], ids=lambda f: f.name
)
def test_labels_cover_all_tokens_with_train_on_all(family: Family) -> None:
    (found,) = encode(family, ONE, train_on="all")
    assert found.labels == found.input_ids
    (masked,) = encode(family, ONE)
    assert found.input_ids == masked.input_ids


def test_template_that_opens_the_reasoning_is_refused() -> None:
    """An answer without a closing </think> would teach the model never to close the tag."""
    closed = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    template = template_families.QWEN.template.split("{%- if add_generation_prompt")[0] + closed
    tokenizer = template_families.QWEN_3.tokenizer()
    renderer = Renderer(tokenizer, template=template, train_on="responses", stops=[2])
    with pytest.raises(BrokenRow, match=r"set dataset\.chatTemplate to another template"):
        renderer.conversation(ONE)


@pytest.mark.parametrize("first", ["#", "# Paris", "*", "P"])
def test_answer_is_found_whatever_its_first_character(first: str) -> None:
    answer = {"role": "assistant", "content": first}
    (found,) = encode(template_families.MISTRAL, [SYSTEM, ASKED, answer])
    parts = [
        (f"<s>[INST] Answer briefly.\n\n{QUESTION}[/INST]", False),
        (f" {first}</s>", True),
    ]
    assert (found.input_ids, found.labels) == tokens(template_families.MISTRAL, parts)


def test_date_of_a_template_is_fixed() -> None:
    family = template_families.LLAMA_3_1
    dataset = Dataset(source="hf://a/b", format="messages")
    template = prompt_templates.choose(dataset, family.tokenizer(), source="a/b", today=TODAY)
    assert (template.frozen, template.shipped) == ("2030-07-26", True)
    moving = family.tokenizer().apply_chat_template(ONE, tokenize=False)
    frozen = family.tokenizer().apply_chat_template(
        ONE, tokenize=False, chat_template=template.text
    )
    today = moving.split("Today Date: ")[1].split("\n")[0]
    assert frozen == moving.replace(today, "26 Jul 2030")
    tomorrow = prompt_templates.freeze(family.template, date(2031, 1, 2))[0]
    assert "02 Jan 2031" in family.tokenizer().apply_chat_template(
        ONE, tokenize=False, chat_template=tomorrow
    )


@pytest.mark.parametrize(
    "start",
    ["", "\n", "    {% if true %}{% endif %}", "x\n", "  x", "{%- set a = 1 %}\n\n"],
)
def test_fixing_the_date_changes_nothing_else(start: str) -> None:
    text = start + "{{ strftime_now('%Y') }}|{{ strftime_now( \"%d/%m\" ) }}\n"
    frozen, day = prompt_templates.freeze(text, TODAY)
    assert day == "2030-07-26"
    render = template_families.QWEN.tokenizer().apply_chat_template
    plain = text.replace("strftime_now('%Y')", "'2030'").replace(
        'strftime_now( "%d/%m" )', "'26/07'"
    )
    assert render(ONE, tokenize=False, chat_template=frozen) == render(
        ONE, tokenize=False, chat_template=plain
    )


def test_date_with_computed_format_is_refused() -> None:
    with pytest.raises(
        InvalidSpec, match=r"write the date as text .* set dataset\.chatTemplate to the copy"
    ):
        prompt_templates.freeze("{{ strftime_now(format) }}", TODAY)
    assert prompt_templates.freeze("{{ strftime_now is defined }}", TODAY)[1] is None


def chosen(tokenizer: Any, **dataset: Any) -> prompt_templates.Template:
    return prompt_templates.choose(
        Dataset(source="hf://a/b", **dataset), tokenizer, source="a/b", today=TODAY
    )


@pytest.mark.parametrize(
    ("base_has_one", "dataset", "kind", "shipped"),
    [
        (True, {"format": "alpaca"}, "chat", False),
        (False, {"format": "alpaca"}, "alpaca", True),
        (True, {"format": "alpaca", "prompt_template": "alpaca"}, "alpaca", True),
        (False, {"format": "prompt-completion"}, "alpaca", True),
        (True, {"format": "messages"}, "chat", False),
        (False, {"format": "messages", "chat_template": "{{ messages }}"}, "chat", True),
        (True, {"format": "messages", "chat_template": "{{ messages }}"}, "chat", True),
        (True, {"format": "messages", "chat_template": tiny.CHAT_TEMPLATE}, "chat", False),
        (False, {"format": "alpaca", "prompt_format": "Q: {prompt} A:"}, "own", True),
        (True, {"format": "prompt-completion", "prompt_format": "{prompt}"}, "own", True),
        (True, {"format": "text"}, None, False),
        (False, {"format": "text"}, None, False),
    ],
)
def test_template_is_selected_by_the_spec(
    base_has_one: bool, dataset: dict[str, Any], kind: str | None, shipped: bool
) -> None:
    found = chosen(tiny.tokenizer(chat=base_has_one), **dataset)
    assert (found.kind, found.shipped) == (kind, shipped)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({"format": "messages"}, r"no chat template to render.*dataset\.chatTemplate"),
        ({"format": "alpaca", "prompt_template": "chat"}, r"promptTemplate is chat, but model a/b"),
        (
            {"format": "messages", "chat_template": "{% for m in messages %}"},
            r"dataset\.chatTemplate is not a valid Jinja template \(line 1",
        ),
    ],
)
def test_missing_or_invalid_template_is_refused(dataset: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        chosen(tiny.tokenizer(chat=False), **dataset)


@pytest.mark.parametrize(
    "prompt",
    ["Question: {prompt}\nAnswer: ", "{prompt}", "'{{' \\n {prompt} {% x %}\\", "ä😀\r\n{prompt}→"],
)
@pytest.mark.parametrize("bos", [True, False])
def test_prompt_format_is_rendered_verbatim(prompt: str, bos: bool) -> None:
    tokenizer = tiny.tokenizer(chat=False, bos=bos)
    dataset = Dataset(source="hf://a/b", format="alpaca", prompt_format=prompt)
    template = chosen(tokenizer, format="alpaca", prompt_format=prompt)
    row = {"instruction": "Add", "input": "1 2", "output": "3"}
    example = example_of(row, dataset, template=template.kind)
    renderer = Renderer(tokenizer, template=template.text, train_on="responses", stops=[0])
    (found,) = renderer.conversation(example.messages or [])
    asked = ("<s>" if bos else "") + prompt.replace("{prompt}", "Add\n\n1 2")
    before = tokenizer(asked, add_special_tokens=False).input_ids
    answer = tokenizer("3<|im_end|>", add_special_tokens=False).input_ids
    assert found.input_ids == before + answer
    assert found.labels == [IGNORED] * len(before) + answer
