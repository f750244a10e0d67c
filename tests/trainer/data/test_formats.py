"""Detection of formats, and conversations with other keys and roles."""

from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from tests.support.trainer import tiny

from finetune_api.contracts.job_config import JobConfig
from finetune_api.v1alpha1.data.rows import Rows
from finetune_trainer.data.dataset_files import Fetched
from finetune_trainer.data.rows import formats
from finetune_trainer.data.rows.schema import example_of
from finetune_trainer.errors import DatasetInvalid, InvalidSpec
from finetune_trainer.preparation import dataset_formats

OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
OWN = [{"author": "customer", "text": "Hi"}, {"author": "agent", "text": "Yo"}]
MAPPING = {
    "role": "author",
    "content": "text",
    "roles": {"customer": "user", "agent": "assistant"},
}


def rows(**fields: Any) -> Rows:
    return Rows.model_validate({"source": "hf://a/b", "format": "auto", **fields})


@pytest.mark.parametrize(
    ("row", "fields", "format_"),
    [
        ({"instruction": "a", "output": "b"}, {}, "alpaca"),
        ({"instruction": "a", "input": "", "output": "b", "text": "c"}, {}, "alpaca"),
        ({"q": "a", "a": "b"}, {"columns": {"instruction": "q", "output": "a"}}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, {}, "prompt-completion"),
        ({"prompt": "a", "messages": OPENAI}, {}, "messages"),
        ({"messages": OPENAI, "tools": []}, {}, "messages"),
        ({"conversations": OPENAI}, {}, "messages"),
        ({"conversations": SHAREGPT, "id": 3}, {}, "sharegpt"),
        ({"messages": SHAREGPT}, {}, "sharegpt"),
        ({"chat": SHAREGPT}, {"columns": {"messages": "chat"}}, "sharegpt"),
        ({"messages": OWN}, {"mapping": MAPPING}, "messages"),
        ({"text": "a", "url": "b"}, {}, "text"),
        ({"text": "a", "output": "b"}, {"columns": {"output": "output"}}, None),
        ({"messages": []}, {}, None),
        ({"question": "a", "answer": "b"}, {}, None),
    ],
)
def test_format_is_detected_by_the_columns(
    row: dict[str, Any], fields: dict[str, Any], format_: str | None
) -> None:
    assert formats.detect(row, rows(**fields)) == format_


def test_keys_and_roles_can_be_mapped() -> None:
    for format_ in ("messages", "sharegpt"):
        found = example_of(
            {"messages": OWN}, rows(format=format_, mapping=MAPPING), template="chat"
        )
        assert found.messages == OPENAI


def test_sharegpt_calls_and_results_are_messages_of_openai() -> None:
    turns = [
        SHAREGPT[0],
        {"from": "function_call", "value": '{"name": "f", "arguments": "{\\"a\\": null}"}'},
        {"from": "observation", "value": "3"},
        SHAREGPT[1],
    ]
    found = example_of({"conversations": turns}, rows(format="sharegpt"), template="chat")
    assert found.messages == [
        OPENAI[0],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"a": None}}}
            ],
        },
        {"role": "tool", "content": "3"},
        OPENAI[1],
    ]


def test_nulls_of_parquet_do_not_reach_the_template(tmp_path: Path) -> None:
    """Rows with different keys get nulls for the keys of other rows, at every depth."""
    table = pa.Table.from_pylist(
        [
            {
                "messages": [
                    OPENAI[0],
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "1", "function": {"name": "f", "arguments": {"a": 1}}},
                            {"id": "2", "function": {"name": "g", "arguments": {"b": 2}}},
                        ],
                    },
                ],
                "tools": [
                    {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}},
                    {"name": "g", "parameters": {"properties": {"b": {"type": "integer"}}}},
                ],
            }
        ]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = Fetched(files=((tmp_path / "a.parquet", "a.parquet"),), digest="", digests={}).rows()
    assert "null" in str(row.values).replace("None", "null")
    found = example_of(row.values, rows(format="messages"), template="chat")
    assert found.messages is not None
    assert found.tools is not None
    assert [call["function"]["arguments"] for call in found.messages[1]["tool_calls"]] == [
        {"a": 1},
        {"b": 2},
    ]
    assert [tool["function"]["parameters"]["properties"] for tool in found.tools] == [
        {"a": {"type": "integer"}},
        {"b": {"type": "integer"}},
    ]
    assert "None" not in str((found.messages, found.tools))


def fetched(folder: Path, name: str, *content: dict[str, Any]) -> Fetched:
    path = tiny.dataset(folder / name, [*content]) / "train.jsonl"
    return Fetched(files=((path, "train.jsonl"),), digest="", digests={})


def job(**changes: Any) -> JobConfig:
    return JobConfig.model_validate(tiny.job("hf://a/b", "hf://c/d", **changes))


def test_prepare_follows_and_records_the_detected_formats(tmp_path: Path) -> None:
    spec = {"format": "auto"}, {"dataset": {"source": "hf://e/f", "format": "sharegpt"}}
    found, records = dataset_formats.determine(
        job(dataset=spec[0], evaluation=spec[1]),
        {
            "dataset": fetched(tmp_path, "train", {"messages": OPENAI}),
            "evaluation.dataset": fetched(tmp_path, "test", {"conversations": SHAREGPT}),
        },
    )
    assert found.dataset.format == "messages"
    assert [each.model_dump() for each in records] == [
        {
            "dataset": "dataset",
            "format": "messages",
            "requested": "auto",
            "detected": "messages",
        },
        {
            "dataset": "evaluation.dataset",
            "format": "sharegpt",
            "requested": "sharegpt",
            "detected": "sharegpt",
        },
    ]


@pytest.mark.parametrize(
    ("content", "changes", "error", "said"),
    [
        ([{"q": 1}], {}, DatasetInvalid, r"columns of row 1 of train.jsonl \(q\): set dataset.fo"),
        ([], {}, DatasetInvalid, "the dataset has no rows"),
        (
            [{"text": "a"}],
            {"chatTemplate": "{{ messages }}"},
            InvalidSpec,
            "have the format text; chatTemplate and promptFormat have no effect on the Alpaca",
        ),
        (
            [{"messages": OPENAI}],
            {"promptTemplate": "alpaca"},
            InvalidSpec,
            "have the format messages; the Alpaca prompt renders only rows",
        ),
    ],
)
def test_detected_format_that_the_spec_does_not_allow_is_refused(
    tmp_path: Path,
    content: list[dict[str, Any]],
    changes: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        dataset_formats.determine(
            job(dataset={"format": "auto", **changes}),
            {"dataset": fetched(tmp_path, "train", *content)},
        )
