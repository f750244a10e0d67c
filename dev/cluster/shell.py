"""Running other programs.

:func:`run` raises :class:`CommandFailed` with the last lines of the output; :func:`logged` sends
the output to a file and names it in the error; :func:`capture` returns standard output.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import CommandFailed
from cluster.settings import CLUSTER_DOMAIN, NODE_ADDRESS, POD_CIDR, SERVICE_CIDR

TAIL_LINES = 25
# Where Debian keeps programs; `su` without `-` and cron leave part of it out.
SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# What no proxy of the environment can reach: client-go spares it loopback addresses alone.
DIRECT = (
    "localhost",
    "127.0.0.1",
    NODE_ADDRESS,
    POD_CIDR,
    SERVICE_CIDR,
    ".svc",
    f".{CLUSTER_DOMAIN}",
)
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


def prepare() -> None:
    """Make this environment, which all that is started inherits, fit for the cluster.

    Every command begins with it. The folders of :data:`SEARCH` are on the PATH, and behind a proxy
    the cluster's addresses are reached without it; what is there already is kept.
    """
    present = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    present += [folder for folder in SEARCH if folder not in present]
    os.environ["PATH"] = os.pathsep.join(present)
    if not behind_proxy():
        return
    # Some programs read one of the two, some the other.
    given = [os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    exempt = [entry.strip() for entry in ",".join(given).split(",") if entry.strip()]
    if "*" not in exempt:
        value = ",".join(dict.fromkeys([*exempt, *DIRECT]))
        os.environ.update({"NO_PROXY": value, "no_proxy": value})


def behind_proxy() -> bool:
    """Whether the environment names a proxy."""
    return bool(urllib.request.getproxies_environment().keys() - {"no"})


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
