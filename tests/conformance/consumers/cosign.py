"""cosign as a user runs it; ``COSIGN`` names the program."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Cosign:
    """The program, which trusts the registry of the test."""

    program: str
    authority: Path

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        # The password of the keys that it writes and reads is empty.
        trusted = {"SSL_CERT_FILE": str(self.authority), "COSIGN_PASSWORD": ""}
        return subprocess.run(
            [self.program, *map(str, words)],
            env=os.environ | trusted,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
