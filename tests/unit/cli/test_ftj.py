"""The command line ``ftj``: help, wrong calls, missing extras, validate."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import API_VERSION, KIND
from finetune_cli import __main__ as ftj
from finetune_cli import running
from finetune_cli.commands.table import COMMANDS
from finetune_cli.offline import job_file
from finetune_trainer.runtime.signals import StopRequest

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


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_the_command_and_every_option(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = shown(capsys, command, option)
    assert code == 0
    plain = " ".join(text.split())
    assert COMMANDS[command].description in plain
    assert f"Example: ftj {command}" in plain
    assert re.findall(r"^│ +(--[a-z-]+)", text, re.MULTILINE)
    assert "``" not in text


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_all_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = shown(capsys, *arguments)
    assert code == 0
    for command in COMMANDS.values():
        assert command.name in text
        assert command.summary in text


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("arguments", [["--help"], ["rollback", "--help"]])
def test_help_fits_the_terminal(
    columns: int,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, text, _ = shown(capsys, *arguments)
    assert max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_output(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "<text|json" in shown(capsys, command, "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "-f", "a.yaml"], "Missing option '--work'"),
        (["train"], "No such command 'train'"),
        (["vaildate", "a.yaml"], "Did you mean 'validate'?"),
        (["validate", "a.yaml", "--strict"], "No such option: --strict"),
        (["estimate", "a.yaml", "--tokns", "1"], "Possible options: --longest, --rows, --tokens"),
        (["verify", "folder", "--key"], "Option '--key' requires an argument"),
        (["validate", "a.yaml", "-o", "xml"], "xml"),
        (["\x1b[31mred"], "No such command"),
        (["validate", "--\x1b[31mred"], "No such option"),
    ],
)
def test_wrong_call_prints_the_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(("Usage: ftj ", "Error: "))
    assert words in err
    assert "\x1b" not in err
    assert re.search(r"^For help, run: ftj( [a-z]+)? --help$", err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["estimate"], "ftj estimate: set FILE"),
        (["estimate", "a.yaml", "-f", "b.yaml"], "ftj estimate: set FILE once"),
        (["validate"], "ftj validate: set at least one PATH"),
        (["copy", "a", "b", "--merged", "--adapter"], "ftj copy: --merged and --adapter exclude"),
    ],
)
def test_arguments_that_do_not_match_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(words)
    assert err.count("\n") == 1


def test_kubectl_plugin_shows_its_own_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-ftj"])
    assert "Usage: kubectl ftj estimate" in shown(capsys, "estimate", "--help")[1]


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("huggingface_hub.errors", "cli"),
        ("botocore.session", "cli"),
        ("aiohttp.web", "ui"),
        ("torch", "trainer"),
    ],
)
def test_missing_extra_is_reported_in_one_line(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(job_file, "load", fail)
    code, _, err = shown(capsys, "validate", "-f", "a.yaml")
    assert code == 1
    package = missing.split(".")[0]
    assert err == (
        f"ftj validate needs the package {package}, which is not installed: "
        f"run pip install 'finetune-operator[{extra}]'\n"
    )


def test_unexpected_error_is_one_line_and_no_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError("No module\x1b[31m", name="finetune_trainer.nothing")

    monkeypatch.setattr(job_file, "load", fail)
    code, out, err = shown(capsys, "validate", "-f", "a.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("ftj validate: unexpected ModuleNotFoundError: No module\\x1b[31m. ")
    assert err.count("\n") == 1
    monkeypatch.setenv("FTJ_TRACEBACK", "1")
    with pytest.raises(ModuleNotFoundError):
        ftj.main(["validate", "-f", "a.yaml"])


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(job_file, "load", interrupt)
    assert shown(capsys, "validate", "-f", "a.yaml") == (130, "", "")


def test_stop_that_a_library_turns_into_an_error_is_reported_as_a_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = StopRequest()

    def fail(*_: object) -> int:
        stop.requested = True
        raise ImportError("interrupted")

    monkeypatch.setattr(running, "StopRequest", lambda: stop)
    monkeypatch.setattr(job_file, "load", fail)
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
    assert f"InvalidSpec: {tmp_path} contains no FineTuneJob, FineTuneProfile" in err


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
        ("spec: " + "[" * 20_000 + "]" * 20_000, "nested more than 100 levels deep: remove levels"),
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


def test_validate_takes_files_as_arguments_and_prints_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(JOB))
    bad.write_text(yaml.safe_dump(BROKEN))
    code, out, err = shown(capsys, "validate", str(good), str(bad), "-o", "json")
    assert (code, err) == (64, "")
    found = json.loads(out)
    assert found["valid"] is False
    assert [(each["file"], len(each["errors"])) for each in found["objects"]] == [
        (str(good), 0),
        (str(bad), 2),
    ]


HUGE = "kind: List\nitems: [" + "{a: 1}, " * (17 << 17) + "]\n"


def test_a_file_with_too_many_values_is_rejected_within_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text("kind: List\nitems:\n" + "- {a: 1, b: [2, 3]}\n" * 100_000)
    begin = time.process_time()
    code, _, err = shown(capsys, "validate", str(path))
    assert time.process_time() - begin < 10
    assert code == 64
    assert f"{path} cannot be read: it has more than 100000 values" in err


@pytest.mark.parametrize("path", ["/dev/zero", "huge.yaml", "-"])
def test_a_file_that_is_no_manifest_is_rejected_at_once(
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(HUGE))
    if path == "huge.yaml":
        Path(path).write_text(HUGE)
    begin = time.process_time()
    code, out, err = shown(capsys, "validate", path)
    assert time.process_time() - begin < 5
    assert (code, out) == (64, "")
    assert f"{path} cannot be read: it is larger than 16 MiB" in err


HEAD = b"kind: FineTuneJob\napiVersion: finetune.dev/v1alpha1\n"
BAD_FILES = {
    "helm": b"{{ .Values.name }}: x\n",
    "nested": b"[" * 3000 + b"]" * 3000,
    "laughs": LISTS.encode(),
    "binary": bytes(range(256)),
    "utf-16": "kind: FineTuneJob".encode("utf-16"),
    "control": b"kind: \x1b[31m\n",
    "tab": b"a:\n\t- b\n",
    "anchor": b"a: *b\n",
    "tag": b"a: !!python/object:os.system x\n",
    "date": b"a: 2026-99-99\n",
    "key": b"{[a]: b}\n",
    "escapes": HEAD + b'metadata: {name: "\\e[31m"}\n',
    "markup": HEAD + b"metadata: {name: '[red]x[/]'}\n",
    "lists": HEAD + b"metadata: []\nspec: []\n",
}


@pytest.mark.parametrize("command", ["import-axolotl"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_no_file_causes_a_traceback(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(BAD_FILES[name])
    code, out, err = shown(capsys, command, str(path))
    assert (code, out) == (64, "")
    assert "unexpected" not in err
    assert "\x1b" not in err
    # A valid file that is no configuration of Axolotl is rejected for its first setting.
    assert str(path) in err or err.startswith("InvalidSpec: adapter is not set")


FTJ = (sys.executable, "-m", "finetune_cli")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("{ftj} --help >/dev/full", 1, "the output cannot be written: No space left"),
        ("{ftj} --version >/dev/full", 1, "the output cannot be written: No space left"),
        ("{ftj} validate {file} >&-", 0, ""),
    ],
)
def test_closed_and_full_streams_cause_no_traceback(
    shell: str, code: int, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))
    command = shell.format(ftj=" ".join(FTJ), file=file)
    done = subprocess.run(
        ["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_a_file_name_that_is_not_text_is_printed_escaped(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\x1b.yaml"
    Path(os.fsdecode(name)).write_text(yaml.safe_dump(JOB))
    done = subprocess.run(
        [*FTJ, "validate", name], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("/\\udcff\\x1b.yaml: FineTuneJob support is valid\n")
