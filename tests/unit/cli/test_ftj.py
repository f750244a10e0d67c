"""The command line ``ftj``: help, wrong calls, missing extras, validate."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import API_VERSION, KIND
from finetune_cli import __main__ as ftj
from finetune_cli import validate

JOB: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "support"},
    "spec": {
        "model": {"source": "hf://org/model"},
        "dataset": {"source": "hf://org/rows", "format": "alpaca"},
    },
}
BROKEN = JOB | {"spec": JOB["spec"] | {"seed": 1, "suspend": "no"}}


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its exit code, stdout and stderr."""
    try:
        code = ftj.main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


RENDER = "It looks like a template: render it, for example with helm template"


@pytest.mark.parametrize("command", ftj.COMMANDS)
def test_help_describes_the_command_and_every_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = shown(capsys, command, "--help")
    assert code == 0
    plain = " ".join(text.split())
    assert ftj.COMMANDS[command].description in plain
    assert f"Example: ftj {command} " in plain
    options = re.findall(r"^  (-{1,2}[a-z-]+)", text, re.MULTILINE)
    assert options
    assert "``" not in text


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = shown(capsys, "--help")
    assert code == 0
    for command in ftj.COMMANDS.values():
        assert command.name in text
        assert command.summary in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "arguments are required: COMMAND"),
        (["estimate"], "arguments are required: -f/--file"),
        (["run", "-f", "a.yaml"], "arguments are required: --work"),
        (["train"], "invalid choice: 'train'"),
        (["validate", "-f", "a.yaml", "--strict"], "unrecognized arguments: --strict"),
    ],
)
def test_wrong_call_prints_the_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: ftj ")
    assert words in err


def test_kubectl_plugin_shows_its_own_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-ftj"])
    assert "usage: kubectl ftj estimate" in shown(capsys, "estimate", "--help")[1]


@pytest.mark.parametrize(
    ("missing", "extra"),
    [("huggingface_hub.errors", "cli"), ("botocore.session", "cli"), ("torch", "trainer")],
)
def test_missing_extra_is_reported_in_one_line(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(validate, "run", fail)
    code, _, err = shown(capsys, "validate", "-f", "a.yaml")
    assert code == 1
    package = missing.split(".")[0]
    assert err == (
        f"ftj validate needs the package {package}, which is not installed: "
        f"run pip install 'finetune-operator[{extra}]'\n"
    )


def test_missing_module_of_our_own_is_not_reported_as_an_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError("No module", name="finetune_trainer.nothing")

    monkeypatch.setattr(validate, "run", fail)
    with pytest.raises(ModuleNotFoundError):
        ftj.main(["validate", "-f", "a.yaml"])


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(validate, "run", interrupt)
    assert shown(capsys, "validate", "-f", "a.yaml") == (130, "", "")


def test_stop_that_a_library_turns_into_an_error_is_reported_as_a_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object, stop: Any) -> int:
        stop.requested = True
        raise ImportError("interrupted")

    monkeypatch.setattr(validate, "run", fail)
    code, _, err = shown(capsys, "validate", "-f", "a.yaml")
    assert code == 143
    assert err.startswith("Stopped: ")
    assert "Traceback" not in err


def test_validate_reads_folders_lists_and_several_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configmap = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rows"}}
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "one.yml").write_text(yaml.safe_dump_all([configmap, JOB, BROKEN]))
    listed = {"apiVersion": "v1", "kind": "List", "items": [JOB, configmap]}
    (tmp_path / "two.json").write_text(yaml.safe_dump(listed))
    (tmp_path / "notes.txt").write_text("kind: FineTuneJob")
    code, out, err = shown(capsys, "validate", "-f", str(tmp_path))
    assert code == 64
    one, two = tmp_path / "inner" / "one.yml", tmp_path / "two.json"
    assert out.splitlines() == [
        f"{one}: FineTuneJob support is valid",
        f"{two}: FineTuneJob support is valid",
    ]
    assert err.splitlines() == [
        f"{one}: FineTuneJob support: spec.suspend: set true or false (value: 'no')",
        f"{one}: FineTuneJob support: spec.seed: unknown field: remove it",
        "2 errors",
    ]


def test_validate_reads_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(yaml.safe_dump(JOB)))
    assert shown(capsys, "validate", "-f", "-") == (0, "-: FineTuneJob support is valid\n", "")


def test_validate_continues_after_a_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("{")
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(JOB))
    code, out, err = shown(capsys, "validate", "-f", str(tmp_path), "-f", "absent.yaml")
    assert code == 64
    assert "b.yaml: FineTuneJob support is valid" in out
    assert f"{tmp_path / 'a.yaml'} cannot be read" in err
    assert "absent.yaml cannot be read" in err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ .Values.name }}: x\n", RENDER),
        ("metadata: {name: {{ .Values.name }}}\n", RENDER),
        ("{{- if .Values.enabled }}\nkind: ConfigMap\n{{- end }}\n", RENDER),
        ("? [a, b]\n: c\n", "found unhashable key"),
        ("date: 2026-13-01\n", "month must be in 1..12"),
    ],
)
def test_validate_continues_after_a_file_that_is_no_manifest(
    text: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chart.yaml").write_text(text)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    code, out, err = shown(capsys, "validate", "-f", str(tmp_path))
    assert (code, out) == (64, f"{tmp_path}/job.yaml: FineTuneJob support is valid\n")
    (line, count) = err.splitlines()
    assert line.startswith(f"{tmp_path}/chart.yaml cannot be read: ")
    assert problem in line
    assert count == "1 error"


def test_validate_rejects_a_key_that_is_set_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(JOB) + "kind: FineTuneJob\n")
    code, _, err = shown(capsys, "validate", "-f", str(tmp_path))
    assert code == 64
    assert "the key 'kind' is set twice" in err


def test_validate_fails_without_any_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shown(capsys, "validate", "-f", str(tmp_path))
    assert code == 64
    assert f"InvalidSpec: {tmp_path} contains no FineTuneJob" in err


LISTS = "\n".join(
    [
        "l0: &l0 {kind: List, items: []}",
        *(f"l{n}: &l{n} {{kind: List, items: [*l{n - 1}, *l{n - 1}]}}" for n in range(1, 20)),
        "kind: List",
        "items: [*l19]",
    ]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LISTS, "aliases repeat more than 10000 values: replace the aliases with their values"),
        ("spec: " + "[" * 20_000 + "]" * 20_000, "line 1 is nested more than 100 levels deep"),
        ("a: 1\nspec: &a {x: [*a]}", "the alias *a in line 2 contains itself"),
    ],
    ids=["aliases", "levels", "alias of itself"],
)
def test_validate_rejects_a_file_that_would_keep_it_busy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert ftj.main(["validate", "-f", str(path)]) == 64
    error = capsys.readouterr().err
    assert f"{path} cannot be read: " in error
    assert message in error


def test_validate_reads_aliases_and_merge_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata: {{name: &name support}}\nspec:\n"
        "  model: {source: hf://acme/base}\n  dataset: {source: hf://acme/data, format: alpaca}\n"
        "  serving: {servedModelNames: [*name]}\n"
    )
    assert ftj.main(["validate", "-f", str(path)]) == 0, capsys.readouterr().err
