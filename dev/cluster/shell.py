"""Run other programs.

:func:`run` raises :class:`CommandFailed` with the last lines of the output; :func:`logged` writes
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
# Folders of programs on Debian; `su` without `-` and cron omit some of them.
SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# Addresses that a proxy cannot reach; client-go bypasses the proxy only for loopback addresses.
DIRECT = (
    "localhost",
    "127.0.0.1",
    NODE_ADDRESS,
    POD_CIDR,
    SERVICE_CIDR,
    ".svc",
    f".{CLUSTER_DOMAIN}",
)
INDEX_HINT = (
    "check that the Python package index is reachable (HTTPS_PROXY, pip.conf), then run the same "
    "command again"
)
_DNS_FIX = "check the DNS settings of this machine: /etc/resolv.conf and HTTPS_PROXY"
_PROXY_FIX = "check that the proxy in HTTPS_PROXY is reachable"
# Parts of the output of a failed program, with the fix.
KNOWN_FIXES = (
    ("No space left on device", "free disk space (`df -h`), then run the same command again"),
    ("Could not resolve", _DNS_FIX),
    ("Temporary failure in name resolution", _DNS_FIX),
    ("proxyconnect tcp", _PROXY_FIX),
    ("tunneling through proxy", _PROXY_FIX),
    ("Cannot connect to proxy", _PROXY_FIX),
)


def prepare() -> None:
    """Prepare the environment, which all started programs inherit; every command calls this first.

    Adds the folders of :data:`SEARCH` to the PATH and, behind a proxy, the addresses of the cluster
    to NO_PROXY. Existing entries are kept.
    """
    present = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    present += [folder for folder in SEARCH if folder not in present]
    os.environ["PATH"] = os.pathsep.join(present)
    if not behind_proxy():
        return
    # Programs differ in which of the two they read.
    given = [os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    exempt = [entry.strip() for entry in ",".join(given).split(",") if entry.strip()]
    if "*" not in exempt:
        value = ",".join(dict.fromkeys([*exempt, *DIRECT]))
        os.environ.update({"NO_PROXY": value, "no_proxy": value})


def behind_proxy() -> bool:
    """Report whether the environment sets a proxy."""
    return bool(urllib.request.getproxies_environment().keys() - {"no"})


def describe(command: Sequence[str]) -> str:
    """Return the command as typed in a shell, shortened for messages."""
    text = " ".join(shlex.quote(word) for word in command)
    return text if len(text) <= 160 else text[:157] + "..."


def tail(text: str) -> str:
    """Return the last lines of an output, for an error message."""
    return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def known_fix(output: str) -> str:
    """Return the fix for a known failure in an output; empty for other failures."""
    return next((fix for words, fix in KNOWN_FIXES if words in output), "")


def run(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command with captured output; ``env`` is added to the environment.

    Raises CommandFailed if the program is missing, exceeds ``timeout`` seconds or, with ``check``,
    fails.
    """
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
        raise CommandFailed(f"{describe(command)} did not finish within {timeout:g} s") from error
    if check and done.returncode != 0:
        output = tail(done.stderr or done.stdout)
        raise CommandFailed(
            f"{describe(command)} failed with exit code {done.returncode}:\n{output}",
            hint=known_fix(output),
        )
    return done


def capture(command: Sequence[str], **options: Any) -> str:
    """Return the stripped standard output of a command. Raises CommandFailed if it fails."""
    return run(command, **options).stdout.strip()


def logged(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
) -> None:
    """Run a command with its output appended to ``log``. Raises CommandFailed if it fails."""
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
            f"{describe(command)} failed with exit code {done.returncode}:\n{output}",
            log=log,
            hint=known_fix(output) or hint,
        )
