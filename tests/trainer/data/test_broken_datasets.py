"""Invalid datasets: the message contains file, row, column and remediation.

Each row of the tables is one dataset. It is written to a file and read like in the prepare stage,
in this process. Datasets that would exhaust the memory are read with a measured limit.
"""

import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from tests.support.trainer import tiny

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.data.chat_rendering import Renderer
from finetune_trainer.data.dataset import prepare
from finetune_trainer.data.rows import bounded_reader, readers
from finetune_trainer.data.selection.select import select
from finetune_trainer.data.tokenize_rows import RowTokenizer
from finetune_trainer.errors import DatasetInvalid

GIGABYTE = 1 << 30
MEMORY_LIMIT = 200 << 20
"""The memory limit in bytes for rejecting a dataset, independent of its size."""
GOOD: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "a", "output": "b"},
    "messages": {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    },
    "prompt-completion": {"prompt": "a", "completion": "b"},
    "text": {"text": "a"},
}
Content = bytes | Callable[[Path], None]


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: dict[str, Any], **options: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(table), path, **options)


def sparse(start: bytes, size: int = GIGABYTE) -> Callable[[Path], None]:
    """Return a writer of a sparse file: ``start``, then zeros that take no disk space."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return write


def packed(start: bytes, block: bytes, blocks: int) -> Callable[[Path], None]:
    """Return a writer of a gzip file of a repeated block that is never decompressed as a whole."""

    def write(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=9) as file:
            file.write(start)
            for _ in range(blocks):
                file.write(block)

    return write


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, jsonl(GOOD["alpaca"]))
    return buffer.getvalue()


def broken(row: Any, format_: str) -> bytes:
    """Return four rows, of which the third is invalid."""
    good = GOOD[format_]
    return jsonl(good, good, row, good)


def chat(*messages: Any) -> Any:
    return {"messages": list(messages)}


USER, ANSWER = GOOD["messages"]["messages"]
LONG = {"instruction": "a", "output": "b" * 200}
ONE = jsonl(GOOD["alpaca"])
BOMB_ROW = jsonl({"instruction": "a" * 500, "output": "b" * 500})

Case = tuple[str, str, Content, str, str]
# name of the case, file, content, expected position and error, remediation
FILES: list[Case] = [
    ("latin-1", "a.jsonl", ONE + b'{"a": "\xe4"}\n', "row 2 of a.jsonl is not UTF-8", "as UTF-8"),
    ("utf-16", "a.jsonl", ONE.decode().encode("utf-16"), "a.jsonl is text in UTF-16", "as UTF-8"),
    (
        "zeros",
        "a.jsonl",
        ONE + bytes(99),
        "row 2 of a.jsonl: is not valid JSON",
        "one JSON object per line",
    ),
    ("pickle", "a.jsonl", b"\x80\x04K\x01.", "is a pickle, which is never loaded", "JSON Lines"),
    ("zip", "a.jsonl", zipped("a.jsonl"), "a.jsonl is a zip archive", "store the rows as UTF-8"),
    ("gz unnamed", "a.jsonl", gzip.compress(ONE), "is a gzip file", "must end in .gz"),
    ("parquet as json", "a.json", b"PAR1....", "a.json is a Parquet file", "must end in .parquet"),
    ("zstd", "a.csv", b"\x28\xb5\x2f\xfd....", "a.csv is a zstd file", "store the rows"),
    ("arrow", "a.json", b"ARROW1\0\0", "a.json is an Arrow file", "store the rows"),
    ("lfs pointer", "a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "store"),
    ("web page", "a.jsonl", b"<!DOCTYPE html>", "a.jsonl is a web page", "store the rows"),
    (
        "half a line",
        "a.jsonl",
        ONE + b'{"instruction": "a',
        "row 2 of a.jsonl: is not valid JSON",
        "per line",
    ),
    ("a number", "a.jsonl", ONE + b"7\n", "row 2 of a.jsonl: is a JSON int", '{"column": value'),
    ("a text", "a.jsonl", ONE + b'"b"\n', "row 2 of a.jsonl: is a JSON str", '{"column": value'),
    ("a null", "a.jsonl", ONE + b"null\n", "row 2 of a.jsonl: is a JSON NoneType", '{"column"'),
    ("a list", "a.jsonl", ONE + b'["b"]\n', "row 2 of a.jsonl: is a JSON list", '{"column": value'),
    (
        "python",
        "a.jsonl",
        b"{'instruction': 'a'}\n",
        "row 1 of a.jsonl: is not valid JSON",
        "json.dumps",
    ),
    (
        "commas",
        "a.jsonl",
        b'{"a": 1},\n{"a": 2}\n',
        "row 1 of a.jsonl: is not valid JSON",
        "ends in .json",
    ),
    (
        "indented",
        "a.json",
        b'{\n "a": 1\n}\n',
        "row 1 of a.json: is not valid JSON",
        "one JSON array",
    ),
    (
        "deep",
        "a.jsonl",
        ONE + b"[" * 200_000 + b"\n",
        "row 2 of a.jsonl: is not valid JSON",
        "per line",
    ),
    (
        "two a line",
        "a.jsonl",
        b'{"a": 1}{"a": 2}\n',
        "row 1 of a.jsonl: is not valid JSON",
        "per line",
    ),
    ("endless number", "a.jsonl", b'{"a": ' + b"9" * 9999 + b"}\n", "row 1 of a.jsonl", "per line"),
    (
        "array cut",
        "a.json",
        b'[{"a": 1},',
        "row 2 of a.json is not valid JSON",
        "one array of objects",
    ),
    (
        "element cut",
        "a.json",
        b'[{"a": 1}, {"a": ',
        "row 2 of a.json is not valid JSON",
        "one array",
    ),
    ("array unclosed", "a.json", b'[{"a": 1}', "but the end of the file was", "array of objects"),
    ("comma missing", "a.json", b'[{"a": 1} {"a": 2}]', "but '{' was found", "one array"),
    (
        "after the array",
        "a.json",
        b'[{"a": 1}]\n[]',
        "has text after the end",
        "remove this text",
    ),
    ("element text", "a.json", b'[{"a": 1}, "b"]', "row 2 of a.json: is a JSON str", '{"column"'),
    (
        "element deep",
        "a.json",
        b'[{"a": 1}, ' + b"[" * 200_000,
        "row 2 of a.json is not valid JSON",
        "one array",
    ),
    ("array latin-1", "a.json", b'[{"a": "\xe4"}]', "a.json is not UTF-8 after row 0", "as UTF-8"),
    ("csv too wide", "a.csv", b"x,y\n1,2\n1,2,3\n", "row 2 of a.csv: has more fields", "quote"),
    (
        "csv too narrow",
        "a.csv",
        b"x,y\n1,2\n1\n",
        "row 2 of a.csv: has fewer fields",
        "quote fields",
    ),
    ("csv open quote", "a.csv", b'x,y\n1,2\n"1,2\n', "row 2 of a.csv is not valid CSV", "close"),
    ("csv stray quote", "a.csv", b'x,y\n"a"b,2\n', "row 1 of a.csv is not valid CSV", "double"),
    (
        "csv header",
        "a.csv",
        b"x,x\n1,2\n",
        "the header of a.csv has these columns more than once: x",
        "Rename the columns",
    ),
    ("csv latin-1", "a.csv", b"x,y\n1,2\n\xe4,2\n", "row 3 of a.csv is not UTF-8", "as UTF-8"),
    (
        "csv semicolons",
        "a.csv",
        b"instruction;output\na;b\n",
        "it has instruction;output",
        "columns",
    ),
    (
        "csv of a Mac",
        "a.csv",
        b"instruction,output\ra,b\r",
        "row 1 of a.csv is not valid CSV",
        "quotes",
    ),
    ("csv header alone", "a.csv", b"instruction,output\n", "the dataset has no rows", "split"),
    (
        "parquet torn",
        "a.parquet",
        b"PAR1" + bytes(99),
        "not readable as Parquet",
        "create the file again",
    ),
    (
        "parquet text",
        "a.parquet",
        ONE,
        "a.parquet is not readable as Parquet",
        "create the file again",
    ),
    (
        "parquet empty",
        "a.parquet",
        parquet({"instruction": [], "output": []}),
        "the dataset has no rows",
        "check dataset.source",
    ),
    (
        "parquet null",
        "a.parquet",
        parquet({"instruction": ["a", "a"], "output": ["b", None]}),
        "row 2 of a.parquet: column 'output' is null",
        "remove the row",
    ),
    (
        "parquet number",
        "a.parquet",
        parquet({"instruction": ["a"], "output": [7]}),
        "row 1 of a.parquet: column 'output' is a number",
        "write it as text",
    ),
    (
        "parquet bytes",
        "a.parquet",
        parquet({"instruction": ["a"], "output": [b"b"]}),
        "row 1 of a.parquet: column 'output' is a bytes value instead of text",
        "write it as text",
    ),
    (
        "gz torn",
        "a.jsonl.gz",
        gzip.compress(ONE * 99)[:-9],
        "not a valid gzip file",
        "compress it again",
    ),
    ("gz text", "a.jsonl.gz", ONE, "a.jsonl.gz is not a valid gzip file", "store it uncompressed"),
    ("empty file", "a.jsonl", b"", "the dataset has no rows", "check dataset.source"),
    ("blank lines", "a.jsonl", b"\n \n\n", "the dataset has no rows", "check dataset.source"),
    ("empty array", "a.json", b"[]", "the dataset has no rows", "check dataset.source"),
    ("a zip alone", "a.zip", zipped("a.jsonl"), "no data file (it has a.zip)", "unpack"),
    ("text alone", "a.txt", b"hello", "no data file (it has a.txt)", "JSON Lines"),
    ("another split", "test.jsonl", ONE, "has no split 'train'", "Set dataset.split"),
]
ROWS: list[tuple[str, Any, str, str]] = [
    # format, the invalid row (number 3 of 4), expected column and error, remediation
    ("alpaca", {"instruction": "a"}, "no column 'output'", "dataset.columns"),
    ("alpaca", {"output": "a"}, "no column 'instruction'", "dataset.columns"),
    ("alpaca", {"Instruction": "a", "Output": "b"}, "(it has Instruction, Output)", "columns"),
    ("alpaca", {}, "(it has none)", "dataset.columns"),
    ("alpaca", {"instruction": "a", "output": ""}, "'output' is empty", "fill in the column"),
    ("alpaca", {"instruction": "a", "output": " \n\t"}, "'output' is empty", "remove the row"),
    ("alpaca", {"instruction": "", "output": "b"}, "'instruction' is empty", "fill in the column"),
    ("alpaca", {"instruction": "a", "output": None}, "'output' is null", "write it as text"),
    ("alpaca", {"instruction": "a", "output": 7}, "'output' is a number", "write it as text"),
    ("alpaca", {"instruction": "a", "output": True}, "'output' is a boolean", "as text"),
    ("alpaca", {"instruction": "a", "output": ["b"]}, "'output' is a list", "write it as text"),
    ("alpaca", {"instruction": "a", "output": {}}, "'output' is an object", "write it as text"),
    ("alpaca", {"instruction": "a", "output": "b", "input": 1}, "'input' is a number", "as text"),
    ("alpaca", {"instruction": "a", "output": "\ud83d"}, "'output' contains a lone sur", "UTF-8"),
    (
        "alpaca",
        GOOD["messages"],
        "has the columns of format messages, not of format alpaca",
        "dataset.columns",
    ),
    (
        "messages",
        GOOD["alpaca"],
        "has the columns of format alpaca, not of format messages",
        "dataset.columns",
    ),
    ("messages", {"messages": "a"}, "'messages' is text instead of a list", "in this form"),
    ("messages", {"messages": "[]"}, "'messages' is text instead of a list", "in this form"),
    ("messages", {"messages": None}, "'messages' is null instead of a list", "in this form"),
    ("messages", {"messages": []}, "'messages' is an empty list", "in this form"),
    ("messages", chat("a"), "messages[0] is text instead of an object", "write it as"),
    ("messages", chat(USER, {"role": "bot", "content": "b"}), "[1].role is 'bot'", "use one of"),
    ("messages", chat(USER, {"content": "b"}), "messages[1].role is None", "use one of"),
    ("messages", chat({"role": "user"}, ANSWER), "messages[0].content is null", "as text"),
    ("messages", chat({"role": "user", "content": [{"text": "a"}]}, ANSWER), "parts that", "remov"),
    ("messages", chat({"role": "user", "content": {"text": "a"}}, ANSWER), "an object", "as text"),
    (
        "messages",
        chat({"role": "user", "content": " "}, ANSWER),
        "[0].content is empty",
        "question",
    ),
    ("messages", chat(USER, {"role": "assistant", "content": ""}), "[1].content is", "the answer"),
    ("messages", chat(USER), "'messages' has no message of role assistant", "add the answer"),
    ("messages", chat({"role": "system", "content": "a"}), "no message of role assistant", "add"),
    (
        "messages",
        chat({"from": "human", "value": "a"}),
        "has the columns of format sharegpt, not of format messages",
        "set dataset.format to sharegpt",
    ),
    (
        "messages",
        chat(USER, {"role": "assistant", "content": "\udc00"}),
        "[1].content contains",
        "UTF-8",
    ),
    ("prompt-completion", {"completion": "b"}, "no column 'prompt'", "dataset.columns"),
    (
        "prompt-completion",
        {"prompt": "a", "completion": ""},
        "'completion' is empty",
        "fill in the column",
    ),
    ("prompt-completion", {"prompt": "a", "completion": 1}, "'completion' is a number", "as text"),
    ("prompt-completion", {"prompt": [], "completion": "b"}, "'prompt' is an empty", "this form"),
    (
        "prompt-completion",
        {"prompt": "a", "completion": [USER]},
        "'completion' starts",
        "start with",
    ),
    ("text", {"body": "a"}, "no column 'text' (it has body)", "dataset.columns"),
    ("text", {"text": ""}, "'text' is empty", "remove the row"),
    ("text", {"text": 7}, "'text' is a number", "write it as text"),
]
LENGTHS: list[tuple[str, list[Any], dict[str, Any], str, str]] = [
    ("all long", [LONG] * 3, {}, "3 of 3 rows (100.0 %", "raise training.sequenceLength"),
    (
        "some long",
        [*tiny.rows(18), LONG, LONG],
        {},
        "for example row 19 of a.jsonl, row 20",
        "truncate",
    ),
    (
        "one long",
        [*tiny.rows(99), LONG],
        {"overlong": "refuse"},
        "for example row 100 of a.jsonl",
        "drop",
    ),
    (
        "answers beyond",
        [{"instruction": "a" * 200, "output": "b"}] * 2,
        {"overlong": "truncate"},
        "2 of 2 rows (100.0 %; at most 5 % are allowed) have their whole answer beyond",
        "raise training.sequenceLength",
    ),
]
TOO_LARGE: list[Case] = [
    (
        "one line",
        "a.jsonl",
        sparse(b""),
        "row 1 of a.jsonl is longer than 16 MiB",
        "one row per line",
    ),
    ("a text", "a.jsonl", sparse(ONE + b'{"text": "'), "row 2 of a.jsonl is longer", "split doc"),
    (
        "an element",
        "a.json",
        sparse(b'[{"a": 1}, {"a": "'),
        "row 2 of a.json is longer",
        "split doc",
    ),
    ("a field", "a.csv", sparse(b'x,y\n1,2\n"'), "row 3 of a.csv is longer than 16 MiB", "split"),
    (
        "lines in a field",
        "a.csv",
        b'x,y\n1,2\n"' + b"a\n" * (20 << 20),
        "row 2 of a.csv",
        "close each quoted field",
    ),
    (
        "packed line",
        "a.jsonl.gz",
        packed(b"", b"a" * (1 << 20), 1024),
        "a.jsonl.gz decompresses to more than 100 times its",
        "store it uncompressed",
    ),
    (
        "packed rows",
        "a.jsonl.gz",
        packed(b"", BOMB_ROW * 1024, 256),
        "a.jsonl.gz decompresses to more than 100 times its",
        "store it uncompressed",
    ),
    (
        "packed Parquet",
        "a.parquet",
        parquet(
            {"instruction": ["a" * 4096] * 65536, "output": ["b"] * 65536},
            compression="zstd",
            use_dictionary=False,
        ),
        "a.parquet decompresses to more than 100 times its size",
        "without compression",
    ),
    (
        "large Parquet rows",
        "a.parquet",
        parquet(
            {"instruction": ["a"], "output": [b"b" * (40 << 20)]},
            compression="none",
            use_dictionary=False,
        ),
        "the rows of a.parquet have 40 MiB on average",
        "remove the columns",
    ),
]


def rejection(folder: Path, format_: str, **training: Any) -> str:
    """Read and tokenize a folder like the prepare stage; return the error message."""
    job = JobConfig.model_validate(
        tiny.job("hf://a/b", "hf://c/d", dataset={"format": format_}, training=training)
    )
    template = None if format_ == "text" else "chat"
    renderer = Renderer(
        tiny.tokenizer(),
        template=tiny.CHAT_TEMPLATE if template else None,
        train_on=job.training.train_on or "all",
        stops=[0],
    )
    row_tokenizer = RowTokenizer(job, renderer, template=template)
    names = [path.name for path in folder.iterdir()]
    try:
        for name in select(names, {}, job.dataset, "dataset").files:
            row_tokenizer.add_all(readers.read(folder / name, name))
        row_tokenizer.check(vocabulary=320)
        prepare(job, row_tokenizer, None)
    except DatasetInvalid as error:
        return str(error)
    raise AssertionError("the dataset was not rejected")


def write(folder: Path, name: str, content: Content) -> None:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        content(folder / name)


def memory(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@contextmanager
def measured() -> Iterator[list[int]]:
    """Yield a list; after the block it contains the increase of the peak memory in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    before, risen = memory("VmRSS"), list[int]()
    yield risen
    risen.append(memory("VmHWM") - before)


def same(text: str, count: int) -> pa.DictionaryArray:
    """Return ``count`` equal texts that are stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [text])


def test_text_shared_by_many_parquet_rows_needs_bounded_memory(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", parquet({"text": same("a" * 500_000, 4000)}, store_schema=False))
    with measured() as risen:
        rows = [
            len(row.values["text"]) for row in readers.read(tmp_path / "a.parquet", "a.parquet")
        ]
    assert rows == [500_000] * 4000
    assert risen[0] < MEMORY_LIMIT


def test_parquet_row_of_gigabytes_is_rejection(tmp_path: Path) -> None:
    texts = pa.ListArray.from_arrays([0, 1, 4001], same("a" * 500_000, 4001))
    write(tmp_path, "a.parquet", parquet({"text": texts}, store_schema=False))
    said = "row 2 of a.parquet is longer than 16 MiB"
    with measured() as risen, pytest.raises(DatasetInvalid, match=said):
        list(readers.read(tmp_path / "a.parquet", "a.parquet"))
    assert risen[0] < MEMORY_LIMIT


@pytest.mark.parametrize(
    ("file", "content", "said", "remediation"),
    [pytest.param(*case[1:], id=case[0]) for case in FILES],
)
def test_invalid_file_is_refused(
    tmp_path: Path, file: str, content: Content, said: str, remediation: str
) -> None:
    write(tmp_path, file, content)
    message = rejection(tmp_path, "alpaca")
    assert said in message
    assert remediation in message


@pytest.mark.parametrize(("format_", "row", "said", "remediation"), ROWS)
def test_invalid_row_is_refused(
    tmp_path: Path, format_: str, row: Any, said: str, remediation: str
) -> None:
    write(tmp_path, "a.jsonl", broken(row, format_))
    message = rejection(tmp_path, format_)
    assert message.startswith("row 3 of a.jsonl: ")
    assert said in message
    assert remediation in message


@pytest.mark.parametrize(
    ("rows", "advanced", "said", "remediation"),
    [pytest.param(*case[1:], id=case[0]) for case in LENGTHS],
)
def test_too_many_overlong_rows_are_refused(
    tmp_path: Path, rows: list[Any], advanced: dict[str, Any], said: str, remediation: str
) -> None:
    write(tmp_path, "a.jsonl", jsonl(*rows))
    message = rejection(tmp_path, "alpaca", advanced=advanced)
    assert said in message
    assert remediation in message


@pytest.mark.parametrize(
    ("file", "content", "said", "remediation"),
    [pytest.param(*case[1:], id=case[0]) for case in TOO_LARGE],
)
def test_dataset_that_would_exhaust_memory_is_refused(
    tmp_path: Path, file: str, content: Content, said: str, remediation: str
) -> None:
    write(tmp_path, file, content)
    with measured() as risen:
        message = rejection(tmp_path, "alpaca")
    assert said in message
    assert remediation in message
    assert risen[0] < MEMORY_LIMIT


def test_mixed_formats_are_refused_with_the_names_of_three_rows(tmp_path: Path) -> None:
    good, others = GOOD["alpaca"], (GOOD["messages"], GOOD["text"], {"prompt": "a"})
    write(tmp_path, "a.jsonl", jsonl(good, *others, *others))
    message = rejection(tmp_path, "alpaca")
    found = "has the columns of format"
    assert f"row 2 of a.jsonl, row 5 of a.jsonl: {found} messages, not of format alpaca" in message
    assert f"row 3 of a.jsonl, row 6 of a.jsonl: {found} text, not of format alpaca" in message
    absent = "has no column 'instruction' (it has prompt)"
    assert f"row 4 of a.jsonl, row 7 of a.jsonl: {absent}" in message


def test_further_problems_are_counted_in_the_message(tmp_path: Path) -> None:
    rows = [{"instruction": "a", f"c{number}": "b"} for number in range(5)]
    write(tmp_path, "a.jsonl", jsonl(*rows))
    assert rejection(tmp_path, "alpaca").endswith("; and 2 more invalid rows")


def test_row_of_the_largest_size_is_read(tmp_path: Path) -> None:
    text = "a" * (bounded_reader.LONGEST_ROW - 100)
    for name, data in (("a.jsonl", jsonl({"text": text})), ("a.json", b'[{"text": "%s"}]')):
        write(tmp_path, name, data if name == "a.jsonl" else data % text.encode())
        (row,) = readers.read(tmp_path / name, name)
        assert row.values == {"text": text}


def test_tables_have_at_least_100_cases() -> None:
    assert len(FILES) + len(ROWS) + len(LENGTHS) + len(TOO_LARGE) >= 100


def test_unreadable_and_invalid_rows_are_reported_together(tmp_path: Path) -> None:
    content = b'{"instruction": "a"\n' + jsonl({"instruction": "a", "output": ""}) + b"7\n"
    write(tmp_path, "a.jsonl", content + b"\xff\n")
    message = rejection(tmp_path, "alpaca")
    for said in (
        "row 1 of a.jsonl: is not valid JSON",
        "; row 2 of a.jsonl: column 'output' is empty",
        "; row 3 of a.jsonl: is a JSON int",
        "; row 4 of a.jsonl is not UTF-8",
    ):
        assert said in message
