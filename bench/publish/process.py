"""A client in a process of its own: its processor time and its peak memory."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Processor time of a process in seconds, and its peak memory in bytes."""

    processor: float
    memory: int


def run(command: list[str], environment: Mapping[str, str]) -> Cost:
    """Run a client to its end."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        memory, ended = 0, 0
        while not ended:
            memory = max(memory, _peak(process.pid))
            time.sleep(SAMPLE_SECONDS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read()}")
    return Cost(processor=usage.ru_utime + usage.ru_stime, memory=memory)


def _peak(process: int) -> int:
    """Return the peak memory of a process, without that of the process that started it."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
    return int(match[1]) << 10 if match else 0
