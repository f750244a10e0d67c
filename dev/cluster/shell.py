"""Running other programs.

:func:`run` raises :class:`CommandFailed` with the last lines of the output; :func:`logged` sends
the output to a file and names it in the error; :func:`capture` returns standard output.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import CommandFailed

TAIL_LINES = 25
INDEX_HINT = "the Python package index must be reachable (HTTPS_PROXY, pip.conf); try again"
# What a program says, and the way out, whatever it was busy with.
WAYS_OUT = (
    ("No space left on device", "free some disk (`df -h`), then the same command again"),
    ("Could not resolve", "this machine resolves no names: see /etc/resolv.conf and HTTPS_PROXY"),
    ("Temporary failure in name resolution", "see /etc/resolv.conf and HTTPS_PROXY"),
    ("proxyconnect tcp", "the proxy that HTTPS_PROXY names does not answer"),
    ("tunneling through proxy", "the proxy that HTTPS_PROXY names does not answer"),
    ("Cannot connect to proxy", "the proxy that HTTPS_PROXY names does not answer"),
)


def describe(command: Sequence[str]) -> str:
    """The command as one would type it, shortened for messages."""
    text = " ".join(shlex.quote(word) for word in command)
    return text if len(text) <= 160 else text[:157] + "..."


def tail(text: str) -> str:
    """The last lines of an output, for an error message."""
    return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def way_out(output: str) -> str:
    """The way out of what an output tells of; empty where it is nothing known."""
    return next((hint for words, hint in WAYS_OUT if words in output), "")


def run(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run to the end with captured output; ``env`` is added to the environment."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{describe(command)} did not end within {timeout:g} s") from error
    if check and done.returncode != 0:
        output = tail(done.stderr or done.stdout)
        raise CommandFailed(
            f"{describe(command)} ended with {done.returncode}:\n{output}", hint=way_out(output)
        )
    return done


def capture(command: Sequence[str], **options: Any) -> str:
    """Standard output of a command that must succeed, stripped."""
    return run(command, **options).stdout.strip()


def logged(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
) -> None:
    """Run to the end with all output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        stream.write(f"$ {describe(command)}\n".encode())
        stream.flush()
        start = stream.tell()
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                check=False,
            )
        except FileNotFoundError as error:
            raise CommandFailed(f"{command[0]} is not installed", log=log) from error
    if done.returncode != 0:
        with log.open("rb") as stream:
            stream.seek(start)
            output = tail(stream.read().decode(errors="replace"))
        raise CommandFailed(
            f"{describe(command)} ended with {done.returncode}:\n{output}",
            log=log,
            hint=way_out(output) or hint,
        )
