"""``ftj run``: all stages on one machine, interrupted and resumed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Ended, Running, Server, user_command

from clidocs import recording
from finetune_api import API_VERSION, KIND
from finetune_trainer.checkpointing import manifest

TRAINING: dict[str, Any] = {
    "maxSteps": 40,
    "effectiveBatchSize": 2,
    "sequenceLength": 128,
    "packing": "never",
    "advanced": {"backend": "trl", "gradientCheckpointing": False, "saveSteps": 1000},
}


class LocalRun:
    """A folder with one manifest, and the results of ``ftj run``."""

    def __init__(self, server: Server | None, folder: Path) -> None:
        self.server, self.folder, self.work = server, folder, folder / "work"

    def write(
        self, base: str, source: str, *others: Any, evaluation: Any = None, **training: Any
    ) -> None:
        spec = {
            "model": {"source": base},
            "dataset": {"source": source, "format": "alpaca"},
            "training": TRAINING | training,
            "evaluation": evaluation,
        }
        job = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "own"}, "spec": spec}
        (self.folder / "finetune.yaml").write_text(yaml.safe_dump_all([*others, job]))

    @property
    def arguments(self) -> list[str]:
        return ["run", "-f", f"{self.folder}/finetune.yaml", "--work", str(self.work)]

    def start(self) -> Running:
        log = self.folder / "log"
        log.write_text("")
        assert self.server is not None
        process = self.server.start(user_command, self.arguments, {}, str(log))
        return Running(process=process, folder=self.folder)

    def run(self) -> Ended:
        return self.start().wait()


def test_ctrl_c_saves_a_checkpoint_and_the_next_run_resumes(
    servers: dict[str, Server], repositories: dict[str, str], tmp_path: Path
) -> None:
    local_run = LocalRun(servers["trl"], tmp_path)
    local_run.write(repositories["chat"], repositories["rows"])
    running = local_run.start()
    running.until(lambda: "step 3/40" in (tmp_path / "log").read_text())
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGINT)
    stopped = running.wait()
    assert stopped.code == 143, stopped.log
    assert "the checkpoint is kept" in stopped.log
    again = local_run.run()
    assert again.code == 0, again.log
    assert "are already prepared" in again.log
    assert "resuming from the checkpoint of step" in again.log
    for name in ("base", "dataset", "adapter"):
        assert manifest.valid(local_run.work / name, kind=name, key=None)
    (merged,) = local_run.work.glob("merged-*")
    assert f"vllm serve {merged}" in again.log
    # Another recipe is another revision, and must not overwrite the results in this folder.
    local_run.write(repositories["chat"], repositories["rows"], learningRate=0.5)
    refused = local_run.run()
    assert refused.code == 64
    assert "belongs to revision" in refused.log


def test_rows_are_read_from_a_configmap_of_the_same_file(
    servers: dict[str, Server], repositories: dict[str, str], tmp_path: Path
) -> None:
    rows = "".join(
        f'{{"instruction": "Say {at}", "input": "", "output": "{at}"}}\n' for at in range(8)
    )
    configmap = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "own-rows"},
        "data": {"rows.jsonl": rows, "questions.jsonl": rows.replace("Say", "Tell me")},
    }
    local_run = LocalRun(servers["trl"], tmp_path)
    local_run.write(
        repositories["chat"],
        "configmap://own-rows/rows.jsonl",
        configmap,
        evaluation={
            "dataset": {"source": "configmap://own-rows/questions.jsonl", "format": "alpaca"}
        },
        maxSteps=2,
    )
    ended = local_run.run()
    assert ended.code == 0, ended.log
    facts = manifest.read(local_run.work / "dataset").facts
    assert (facts["rows"], facts["validationRows"]) == (8, 8)
    assert "8 rows of evaluation.dataset" in ended.log
    reference = manifest.read(local_run.work / "reference").facts
    assert reference["evaluation"]["rows"] == 8
    forms = {form(line) for line in ended.log.splitlines()}
    shown = [line for line in recording.lines() if RESULT.match(line)]
    assert len(shown) == 2 * recording.SHOWN_STEPS + 5
    for line in shown:
        assert form(line) in forms, "record the output on the reference page again"


RESULT = re.compile(r"[\d:]+ (step \d|train:|merge:|adapter, |merged model:|serve it:)")


def form(line: str) -> str:
    """Return a line of the log without numbers, paths and names."""
    return re.sub(r"\S*[\d/]\S*|(?<=--served-model-name )\S+", "#", line)


LOADED_FIRST = """
import sys
from finetune_trainer.training import backends

usual = backends.load

def load(name):
    backends.load = usual
    early = {"transformers", "peft", "trl"} & set(sys.modules)
    return sys.exit(f"{early} came before {name}") if early else usual(name)

backends.load = load
from finetune_cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_unsloth_is_imported_before_the_libraries_that_it_patches(
    hub: Hub, repositories: dict[str, str], tmp_path: Path
) -> None:
    local_run = LocalRun(None, tmp_path)
    advanced = TRAINING["advanced"] | {"backend": "auto"}
    local_run.write(repositories["chat"], repositories["rows"], maxSteps=2, advanced=advanced)
    ended = subprocess.run(
        [sys.executable, "-c", LOADED_FIRST, *local_run.arguments],
        env=os.environ | {"HF_ENDPOINT": hub.url} | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    facts = manifest.read(local_run.work / "adapter").facts
    assert facts["backend"] == "unsloth"
