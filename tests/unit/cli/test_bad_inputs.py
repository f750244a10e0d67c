"""Fifty files and streams that are no manifest: each verb ends with a message and an exit code."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.support.variants import variants

from finetune_api import API_VERSION, KIND
from finetune_cli import __main__ as ftj

HEAD = f"apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata: {{name: support}}\n"
SPEC = "spec:\n  model: {source: hf://org/model}\n  dataset: {source: hf://org/rows}\n"
JOB = HEAD + SPEC
TEMPLATE = "It looks like a template: render it, for example with helm template"
LARGE = "it is larger than 16 MiB"
REPEAT = "aliases repeat more than 10000 values"
DEEP = "nested more than 100 levels deep"
NO_JOB = "no FineTuneJob|contains 0 FineTuneJobs"
LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)
TEXTS: dict[str, tuple[str | bytes, str]] = {
    # Templates.
    "helm name": ("{{ .Values.name }}: x\n", TEMPLATE),
    "helm value": ("metadata: {name: {{ .Values.name }}}\n", TEMPLATE),
    "helm block": ("{{- if .Values.enabled }}\nkind: ConfigMap\n{{- end }}\n", TEMPLATE),
    "helm include": ('labels:\n  {{- include "labels" . | nindent 4 }}\n', TEMPLATE),
    "jinja": ("{% for job in jobs %}\nkind: FineTuneJob\n{% endfor %}\n", "cannot be read"),
    "helm spec": (HEAD + "spec: {{ toYaml .Values.spec }}\n", TEMPLATE),
    # Size and depth.
    "3,000 lists": ("[" * 3000 + "]" * 3000, DEEP),
    "3,000 maps": ("{a: " * 3000 + "}" * 3000, DEEP),
    "3,000 blocks": ("".join(f"{' ' * n}a:\n" for n in range(3000)), DEEP),
    "open lists": ("[" * 3000, DEEP),
    "deep spec": (HEAD + "spec: " + "[" * 200 + "]" * 200, DEEP),
    "many values": ("kind: List\nitems:\n" + "- {a: 1}\n" * 60_000, "more than 100000 values"),
    # Aliases.
    "billion laughs": (LAUGHS, REPEAT),
    "laughs in a job": (
        JOB + "x:\n" + "\n".join(f"  {each}" for each in LAUGHS.split("\n")),
        REPEAT,
    ),
    "alias of itself": ("spec: &a {x: [*a]}", "contains itself"),
    "unknown alias": ("a: *b\n", "undefined alias"),
    "merge of itself": ("a: &a {<<: *a}\n", "contains itself"),
    "merge of a text": ("a: {<<: x}\n", "expected a mapping"),
    # Other encodings and characters.
    "empty": ("", NO_JOB),
    "only comments": ("# nothing\n---\n# here\n", NO_JOB),
    "bytes": (bytes(range(256)), "cannot be read"),
    "utf-16": ("kind: FineTuneJob".encode("utf-16"), "cannot be read"),
    "latin-1": ("name: M\xfcller".encode("latin-1"), "cannot be read"),
    "nul": (b"kind: \x00\n", "cannot be read"),
    "escape sequence": (b"kind: \x1b[31m\n", "cannot be read"),
    "escaped escape": (
        HEAD.replace("support", '"\\e[31m"') + SPEC,
        "metadata.name|/dev/null cannot be read",
    ),
    "elf": (b"\x7fELF\x02\x01\x01\x00", "cannot be read"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00", "cannot be read"),
    # Syntax.
    "tab": ("a:\n\t- b\n", "cannot be read"),
    "open quote": ('a: "b\n', "cannot be read"),
    "open map": ("{a: b", "cannot be read"),
    "two roots": ("a: b\n- c\n", "cannot be read"),
    "list as key": ("{[a]: b}\n", "unhashable"),
    "impossible date": ("a: 2026-99-99\n", "month must be in 1..12"),
    "python tag": ("a: !!python/object:os.system x\n", "could not determine a constructor"),
    "unknown tag": ("a: !secret x\n", "could not determine a constructor"),
    "directive": ("%YAML 9.9\n---\na: b\n", "cannot be read"),
    "half an emoji": ('a: "\\uD800"\n' + JOB, ""),
    # Other content.
    "text": ("Dear team, please train a model.\n", NO_JOB),
    "number": ("42\n", NO_JOB),
    "list": ("- a\n- b\n", NO_JOB),
    "json lines": ('{"instruction": "a"}\n{"instruction": "b"}\n', "cannot be read"),
    "other kind": ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", NO_JOB),
    "csv": ("instruction,output\na,b\n", NO_JOB),
    # Jobs that are none.
    "no spec": (HEAD, "spec"),
    "lists as groups": (f"apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata: []\nspec: []\n", ""),
    "null": (HEAD + "spec: null\n", "spec"),
    "unknown field": (JOB + "  seed: 1\n", "seed"),
    "markup": (HEAD.replace("support", "'[red]x[/]'") + SPEC.replace("hf:", "h:"), "model"),
    "huge number": (JOB + "  training: {epochs: 1e400}\n", ""),
}
COMMANDS = ("validate", "plan", "estimate")
OPTIONS = {"plan": ("--offline", "--state", "/dev/null"), "estimate": ("--model", "/dev/null")}


def test_there_are_fifty() -> None:
    assert len(TEXTS) >= 50


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_manifest_is_one_message(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = TEXTS[name]
    path = tmp_path / "job.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    begin = time.process_time()
    code = ftj.main([command, str(path), *OPTIONS.get(command, ())])
    assert time.process_time() - begin < 5
    said = capsys.readouterr()
    text = said.out + said.err
    assert code == 64, text
    assert "Report it as a bug" not in text
    assert "Traceback" not in text
    assert "\x1b" not in text
    found = [each for each in words.split("|") if each in " ".join(text.split())]
    assert found, text


def test_a_file_of_60_mb_is_rejected_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text("- {instruction: a, output: b}\n" * 2_000_000)
    assert path.stat().st_size == 60_000_000
    for command in COMMANDS:
        begin = time.process_time()
        assert ftj.main([command, str(path), *OPTIONS.get(command, ())]) == 64
        assert time.process_time() - begin < 2
        assert LARGE in capsys.readouterr().err


FTJ = (sys.executable, "-m", "finetune_cli")
Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


SHELLS: list[tuple[str, int | None, str]] = [
    ("{ftj} {command} /dev/zero {options}", 64, LARGE),
    ("{ftj} {command} - {options} </dev/zero", 64, LARGE),
    ("{ftj} {command} - {options} <&-", 64, NO_JOB),
    ("{ftj} {command} - {options} </dev/null", 64, NO_JOB),
    ("{ftj} {command} {folder} {options}", 64, "cannot be read|contains no FineTuneJob"),
    ("{ftj} {command} {folder}/absent.yaml {options}", 64, "cannot be read"),
    ("{ftj} {command} {job} {options} >/dev/full", 1, "the output cannot be written"),
    ("{ftj} {command} {job} {options} >&- 2>&- <&-", None, ""),
    ("{ftj} {command} {job} {options} | true", 0, ""),
]
STREAMS = [(command, *shell) for command in ("validate", "plan") for shell in SHELLS]
OF_PLAN = "{ftj} {command} {job} {options} >/dev/full"
"""Both verbs read with one function, so that ``make test`` runs one case of the other verb."""


@pytest.mark.parametrize(
    ("command", "shell", "code", "words"),
    variants(STREAMS, kept=[it for it in STREAMS if it[0] == "validate" or it[1] == OF_PLAN]),
)
def test_closed_full_and_endless_streams(
    command: str, shell: str, code: int | None, words: str, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    folder = tmp_path / "empty"
    folder.mkdir()
    line = shell.format(
        ftj=" ".join(FTJ),
        command=command,
        options=" ".join(OPTIONS.get(command, ())),
        folder=folder,
        job=job,
    )
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = {"validate": 0, "plan": 3}[command] if code is None else code
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr
    assert any(each in done.stderr for each in words.split("|")), done.stderr


def test_the_manifest_of_these_tests_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tests above would otherwise reject it for another reason."""
    assert yaml.safe_load(JOB)["kind"] == KIND
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    assert ftj.main(["validate", str(path)]) == 0, capsys.readouterr().err
