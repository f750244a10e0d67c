"""Run the commands of the tutorial like a reader, and record their outputs.

Each command runs in a separate shell. The recording is written only if the whole tutorial passes.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from cluster import paths
from cluster.errors import ClusterError
from cluster.phases import phase, say
from tutorial.lesson import SECTIONS, Command
from tutorial.mistakes import Mistake

RECORDING = Path(__file__).parent / "recording.json"
MISTAKE_SECONDS = 240.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """Environment variables of the commands, and their working folder."""

    variables: Mapping[str, str]
    folder: Path


def run(environment: Environment) -> None:
    """Run the tutorial and write its recording. Raise ClusterError at the first difference."""
    outputs: dict[str, str] = {}
    for section in SECTIONS:
        with phase(section.title):
            for number, command in enumerate(section.commands):
                outputs[key(section.title, number)] = _run(command, environment)
            # All jobs first: their messages take up to a minute, side by side.
            for mistake in section.mistakes:
                outputs[mistake.name] = _apply(mistake, environment)
            for mistake in section.mistakes:
                if mistake.reason is not None:
                    outputs[mistake.name] = _message(mistake, mistake.reason, environment)
    RECORDING.write_text(json.dumps(outputs, indent=1, ensure_ascii=False) + "\n")


def key(title: str, number: int) -> str:
    """Return the key of a command's output in the recording."""
    return f"{title}: {number}"


def _run(command: Command, environment: Environment) -> str:
    say(f"    $ {command.text}")
    output, status = _shell(command.text, environment, command.seconds)
    say("\n".join(f"    {line}" for line in output.splitlines()))
    if (status != 0) != command.fails:
        raise ClusterError(f"`{command.text}` ended with {status}:\n{output}")
    if not re.search(command.shows, output, re.DOTALL):
        raise ClusterError(f"`{command.text}` does not show {command.shows!r}:\n{output}")
    return output


def _apply(mistake: Mistake, environment: Environment) -> str:
    rejected = mistake.reason is None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(mistake.manifest)
        file.flush()
        command = Command(
            text=f"kubectl apply -f {file.name}",
            shows=mistake.shows if rejected else "created",
            fails=rejected,
        )
        return _run(command, environment).replace(file.name, "job.yaml")


def _message(mistake: Mistake, reason: str, environment: Environment) -> str:
    """Return the message of Ready once it has the reason."""
    path = '{.status.conditions[?(@.type=="Ready")]'
    text = f"kubectl get ftj {mistake.name} -o jsonpath='{path}.reason}} {path}.message}}'"
    end = time.monotonic() + MISTAKE_SECONDS
    while time.monotonic() < end:
        output, _ = _shell(text, environment, 30)
        current, _, message = output.partition(" ")
        if current == reason and re.search(mistake.shows, message, re.DOTALL):
            say(f"    {mistake.name}: {output}")
            return output
        time.sleep(2)
    raise ClusterError(f"{mistake.name} does not show {reason} with {mistake.shows!r}: {output}")


def _shell(text: str, environment: Environment, seconds: float) -> tuple[str, int]:
    """Return the output of a shell command, with errors, and its exit status."""
    try:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=environment.folder,
            env=dict(environment.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{text}` did not end within {seconds:.0f} s") from error
    return done.stdout.replace(str(paths.REPO), "."), done.returncode
