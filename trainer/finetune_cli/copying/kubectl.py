"""Calls ``kubectl``, which has the user's own context and rights."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from finetune_api.safety.printable import printable
from finetune_cli.errors import CommandFailed, Interrupted


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """kubectl with options for cluster and namespace."""

    options: tuple[str, ...] = ()

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Return the output of a call. Raises CommandFailed with the error that kubectl printed."""
        with _on_path():
            done = subprocess.run(
                self._command(words), input=stdin, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            text = printable(done.stderr) or f"exit code {done.returncode}"
            raise CommandFailed(f"kubectl {words[0]} failed: {text}")
        return done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        """Return an object, or a list of objects. Raises CommandFailed."""
        object_: dict[str, Any] = json.loads(self.run("get", *words, "--output=json"))
        return object_

    @contextmanager
    def streamed(self, *words: str) -> Iterator[IO[bytes]]:
        """Return the output of a call as a stream, within this block. Raises Interrupted."""
        with (
            _on_path(),
            subprocess.Popen(
                self._command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                yield process.stdout
            except BaseException:
                process.kill()
                raise
            while process.stdout.read(1 << 16):
                # The padding at the end of the archive.
                continue
            text = process.stderr.read().decode(errors="replace")
        if process.returncode != 0:
            raise Interrupted(printable(text) or f"exit code {process.returncode}")

    def _command(self, words: Sequence[str]) -> list[str]:
        # Before the command: what follows -- in exec belongs to the program in the pod.
        return ["kubectl", *self.options, *words]


@contextmanager
def _on_path() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if error.filename != "kubectl":
            raise
        raise CommandFailed("kubectl is not on the PATH: install kubectl") from None
