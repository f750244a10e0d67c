"""From rows to tokens: formats, invalid rows, lengths, held-out rows and packing."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.trainer import tiny

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.data.statistics import Data
from finetune_trainer.data import packing
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.dataset import StepPlan, prepare
from finetune_trainer.data.rows import readers
from finetune_trainer.data.token_store import Tokens
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.errors import DatasetInvalid

Finished = tuple[Tokens, Tokens, Data, StepPlan]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]

TEXT = {"type": "text", "text": "Yo"}
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo", "weight": None}]


def finish(rows: list[Any], **changes: Any) -> Finished:
    """Tokenize rows like the prepare stage."""
    job = JobConfig.model_validate(tiny.job("hf://a/b", "hf://c/d", **changes))
    tokenizer = tiny.tokenizer()
    renderer = Renderer(
        tokenizer,
        template=tiny.CHAT_TEMPLATE,
        train_on=job.training.train_on or "responses",
        stops=[0],
    )
    template = None if job.dataset.format == "text" else "chat"
    row_tokenizer = RowTokenizer(job, renderer, template=template)
    for at, row in enumerate(rows, 1):
        if not row_tokenizer.full:
            row_tokenizer.add(readers.Row(file="train.jsonl", number=at, values=row))
    row_tokenizer.check(vocabulary=320)
    found = prepare(job, row_tokenizer, None)
    return found.train, found.held_out, found.counts, found.plan


def text_of(tokens: Tokens, row: int) -> str:
    ids = tokens.input_ids[tokens.rows[row] : tokens.rows[row + 1]]
    return str(tiny.tokenizer().decode(ids))


ROWS = [{"instruction": "a\u2028b", "output": 'x, "y"\nz'}, {"instruction": "c", "output": "d"}]


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["instruction", "output"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif name == "array.json":
        path.write_text(json.dumps(ROWS, indent=2))
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
        path.write_text("\ufeff" * (name == "bom.jsonl") + "\n\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "lines.json", "array.json", "a.csv", "a.parquet", "bom.jsonl"]
)
def test_every_file_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    found = list(readers.read(write(tmp_path, name), name))
    assert [row.values for row in found] == ROWS
    lines = name.endswith("jsonl") or name == "lines.json"
    assert [row.number for row in found] == ([1, 3] if lines else [1, 2])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "row 2 of a.jsonl is not valid JSON"),
        ("a.jsonl", "[1]\n", "row 1 of a.jsonl is a JSON int instead of an object"),
        ("a.json", "[{}, 3]", "row 2 of a.json is a JSON int instead of an object"),
        ("a.json", "[{]", "a.json is not valid JSON"),
        ("a.csv", "x,y\n1,2,3\n", "row 1 of a.csv has more fields than the header"),
        ("a.parquet", "PAR1", "a.parquet is not readable as Parquet"),
        ("a.jsonl", b'{"a": "\xff"}\n', "a.jsonl is not UTF-8"),
    ],
)
def test_unreadable_file_is_refused_with_its_position(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    try:
        found = " ".join(
            f"{row.place} {row.problem}" for row in readers.read(tmp_path / name, name)
        )
    except DatasetInvalid as error:
        found = str(error)
    assert re.search(said, found)


@pytest.mark.parametrize(
    ("format_", "row", "columns"),
    [
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Yo"}, {}),
        ("alpaca", {"q": "Hi", "a": "Yo"}, {"instruction": "q", "output": "a"}),
        ("messages", {"messages": CHAT}, {}),
        ("messages", {"chat": [*CHAT, {"role": "user", "content": "?"}]}, {"messages": "chat"}),
        ("prompt-completion", {"prompt": "Hi", "completion": "Yo"}, {}),
        ("prompt-completion", {"prompt": CHAT[:1], "completion": CHAT[1:]}, {}),
        ("prompt-completion", {"q": "Hi", "a": "Yo"}, {"prompt": "q", "completion": "a"}),
        ("messages", {"messages": [CHAT[0], {"role": "assistant", "content": [TEXT]}]}, {}),
        ("messages", {"conversations": CHAT}, {}),
        ("sharegpt", {"conversations": SHAREGPT}, {}),
        ("sharegpt", {"messages": SHAREGPT}, {}),
        ("sharegpt", {"turns": SHAREGPT}, {"messages": "turns"}),
    ],
)
def test_rows_of_every_format_with_default_and_named_columns(
    format_: str, row: Any, columns: dict[str, str]
) -> None:
    train, _, counts, _ = finish([row], dataset={"format": format_, "columns": columns})
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    assert text_of(train, 0) == expected
    assert counts.trained_tokens == 3


@pytest.mark.parametrize(("column", "columns"), [("input", {}), ("given", {"input": "given"})])
def test_alpaca_input_follows_the_instruction(column: str, columns: dict[str, str]) -> None:
    row = {"instruction": "Add", column: "1 2", "output": "3"}
    train, *_ = finish([row], dataset={"columns": columns})
    assert "user\nAdd\n\n1 2<|im_end|>" in text_of(train, 0)


@pytest.mark.parametrize(("column", "columns"), [("text", {}), ("body", {"text": "body"})])
def test_text_is_tokenized_unchanged(column: str, columns: dict[str, str]) -> None:
    own = {"format": "text", "columns": columns}
    train, _, counts, _ = finish([{column: "abc"}], dataset=own)
    assert text_of(train, 0) == "abc<|im_end|>"
    assert counts.trained_tokens == 4


@pytest.mark.parametrize(
    ("format_", "row", "said"),
    [
        ("alpaca", {"instruction": "a", "output": " "}, "column 'output' is empty"),
        ("alpaca", {"instruction": "a"}, r"has no column 'output' \(it has instruction\)"),
        ("alpaca", {"instruction": 3, "output": "b"}, "column 'instruction' is a number instead"),
        ("alpaca", {"instruction": "a", "output": None}, "column 'output' is null instead of text"),
        ("text", {"body": "a"}, "set the column in dataset.columns"),
        ("messages", {"messages": "a"}, "column 'messages' is text instead of a list"),
        ("messages", {"messages": CHAT[:1]}, "has no message of role assistant"),
        ("messages", {"messages": [{"role": "bot"}]}, r"messages\[0\].role is 'bot', which is not"),
        ("messages", {"messages": [{"role": "user"}]}, r"messages\[0\].content is null"),
        ("messages", {"messages": [{"from": "human", "value": "a"}]}, "set dataset.format to sha"),
        ("sharegpt", {"conversations": [{"from": "boss"}]}, r"\[0\].from is 'boss', which is not"),
        ("sharegpt", {"conversations": CHAT}, r"has the columns of format messages"),
        ("prompt-completion", {"prompt": "a"}, "has no column 'completion'"),
    ],
)
def test_invalid_rows_are_named(format_: str, row: Any, said: str) -> None:
    good: dict[str, Any] = {"instruction": "a", "output": "b", "text": "a", "messages": CHAT}
    good |= {"prompt": "a", "completion": "b", "conversations": SHAREGPT}
    with pytest.raises(DatasetInvalid, match=rf"row 3 of train.jsonl: .*{said}"):
        finish([good, good, row, good], dataset={"format": format_})


def test_further_invalid_rows_are_counted() -> None:
    with pytest.raises(
        DatasetInvalid,
        match=r"^row 1 of \S+, row 2 of \S+, row 3 of \S+ and 7 more rows: has no column 'output' "
        r"[^;]*$",
    ):
        finish([{"instruction": "a"}] * 10)


def test_rows_of_another_format_name_it() -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}]}] * 2
    with pytest.raises(DatasetInvalid) as refused:
        finish(rows, dataset={"format": "alpaca"})
    assert str(refused.value).endswith(
        ": has the columns of format messages, not of format alpaca: set dataset.format to "
        "messages, or set the columns in dataset.columns"
    )


def long_row(tokens: int) -> dict[str, str]:
    return {"instruction": "a", "output": "b" * (tokens - 22)}


def test_overlong_rows_up_to_five_percent_are_dropped() -> None:
    train, _, counts, _ = finish([*tiny.rows(19), long_row(129)])
    assert (train.count, counts.dropped_rows, counts.longest_row) == (19, 1, 129)
    assert finish([*tiny.rows(19), long_row(128)])[2].dropped_rows == 0
    message = r"2 of 20 rows \(10.0 %.*128, for example .*\. The longest row has 200"
    with pytest.raises(DatasetInvalid, match=message):
        finish([*tiny.rows(18), long_row(129), long_row(200)])


def test_overlong_rows_are_truncated_if_set() -> None:
    cut = {"training": {"advanced": {"overlong": "truncate"}}}
    train, _, counts, _ = finish([*tiny.rows(18), long_row(129), long_row(200)], **cut)
    assert (train.count, counts.dropped_rows, counts.truncated_rows) == (20, 0, 2)
    assert max(train.rows[1:] - train.rows[:-1]) == 128
    hidden = {"instruction": "a" * 200, "output": "b"}
    assert finish([*tiny.rows(19), hidden], **cut)[2].dropped_rows == 1


@pytest.mark.parametrize(
    ("rows", "held_out"), [(99, 0), (100, 20), (399, 20), (400, 20), (401, 21), (500, 25)]
)
def test_rows_are_held_out_from_100_rows(rows: int, held_out: int) -> None:
    train, evaluation, counts, _ = finish(tiny.rows(rows))
    assert (counts.rows or 0) + (counts.validation_rows or 0) == rows
    assert (train.count, evaluation.count) == (counts.rows, counts.validation_rows)
    assert counts.validation_rows == held_out


@pytest.mark.parametrize(
    ("fraction", "rows", "held_out"),
    [(0.25, 40, 10), (0.05, 40, 2), (0.01, 40, 1), (0.5, 3, 2), (0.5, 2, 1), (0.1, 1, 0)],
)
def test_a_fraction_holds_out_exactly_as_many_rows(
    fraction: float, rows: int, held_out: int
) -> None:
    share = {"dataset": {"validationFraction": fraction}}
    assert finish(tiny.rows(rows), **share)[2].validation_rows == held_out


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_equal_rows_are_held_out_together(duplicates: str) -> None:
    share = {"validationFraction": 0.25, "duplicates": duplicates}
    train, evaluation, counts, _ = finish(tiny.rows(40) * 2, dataset=share)
    texts = [{text_of(part, row) for row in range(part.count)} for part in (train, evaluation)]
    assert texts[0].isdisjoint(texts[1])
    assert counts.validation_rows == (20 if duplicates == "keep" else 10)
    assert len(texts[1]) == 10


def test_held_out_rows_depend_on_content_only() -> None:
    share = {"dataset": {"validationFraction": 0.3}}

    def sides(rows: list[dict[str, str]]) -> tuple[set[str], set[str]]:
        train, evaluation, *_ = finish(rows, **share)
        return tuple(  # type: ignore[return-value]
            {text_of(part, row) for row in range(part.count)} for part in (train, evaluation)
        )

    rows = tiny.rows(60)
    train, held_out = sides(rows)
    assert sides(rows[::-1] + rows) == (train, held_out)
    assert train.isdisjoint(held_out)
    assert (len(train), len(held_out)) == (42, 18)
    assert finish(tiny.rows(500), dataset={"validationFraction": 0})[2].validation_rows == 0


@pytest.mark.parametrize(("duplicates", "kept"), [("keep", 7), ("drop", 5)])
def test_duplicates_are_counted_and_dropped_if_set(duplicates: str, kept: int) -> None:
    rows = [*tiny.rows(5), *tiny.rows(2)]
    train, _, counts, _ = finish(rows, dataset={"duplicates": duplicates})
    assert (train.count, counts.rows, counts.duplicate_rows) == (kept, kept, 2)
    texts = [text_of(train, row) for row in range(kept)]
    assert len(set(texts)) == 5
    assert texts[:5] == list(dict.fromkeys(texts)), "the first of equals stays, in its place"


def test_max_samples_takes_the_first_rows() -> None:
    train, *_ = finish(tiny.rows(20), dataset={"maxSamples": 3})
    assert [text_of(train, row)[17:30] for row in range(train.count)] == [
        "Capital of Fr",
        "Capital of Sp",
        "Capital of It",
    ]


def test_tokens_are_equal_after_save_and_load(tmp_path: Path) -> None:
    train, *_ = finish(tiny.rows(5))
    train.save(tmp_path / "a")
    train.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = Tokens.load(tmp_path / "a")
    assert all((getattr(loaded, name) == value).all() for name, value in vars(train).items())


@pytest.mark.parametrize(
    ("packing_", "rows", "epochs", "packed", "steps"),
    [
        ("never", 64, 2, False, 32),
        ("auto", 64, 2, False, 32),
        ("always", 64, 2, True, 16),
        ("auto", 64, 25, True, 200),
        ("auto", 64, 24, False, 384),
    ],
)
def test_packing_auto_packs_from_200_steps(
    packing_: str, rows: int, epochs: float, packed: bool, steps: int
) -> None:
    recipe = {"packing": packing_, "epochs": epochs, "maxSteps": None, "sequenceLength": 128}
    train, _, _, plan = finish(tiny.rows(rows), training=recipe)
    assert (plan.packed, plan.steps) == (packed, steps)
    lengths = train.rows[train.sequences[1:]] - train.rows[train.sequences[:-1]]
    assert max(lengths) <= 128
    assert train.count == plan.sequences == len(lengths)
    assert (len(train.rows) - 1, train.count < rows) == (rows, packed)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_packing_keeps_every_row_once_within_capacity(lengths: list[int]) -> None:
    groups = packing.pack(lengths, 64)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    sums = sorted(sum(lengths[row] for row in group) for group in groups)
    assert sums[-1] <= 64
    # No two sequences fit into one; best-fit decreasing guarantees this.
    assert len(sums) < 2 or sums[0] + sums[1] > 64


@pytest.mark.parametrize(
    ("sequences", "batch", "epochs", "max_steps", "steps"),
    [(60, 8, 12, None, 96), (1, 8, 0.1, None, 1), (100, 8, 3, None, 39), (100, 8, None, 7, 7)],
)
def test_number_of_steps(
    sequences: int, batch: int, epochs: float | None, max_steps: int | None, steps: int
) -> None:
    assert packing.steps_of(sequences, batch=batch, epochs=epochs, max_steps=max_steps) == steps
