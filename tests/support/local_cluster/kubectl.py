"""Run ``kubectl`` on the local cluster; each call has a time limit."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]
SECONDS = 240.0
EXEC_ATTEMPTS = 5
END = "\ncommand ended\n"
REPORT_END = ("sh", "-c", '"$@"; code=$?; printf %s "$0"; exit $code', END)


class KubectlError(Exception):
    """kubectl failed; the text is its error output."""


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """kubectl with the kubeconfig of the local cluster, not with that of the user."""

    program: Path
    kubeconfig: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the complete command line."""
        return [str(self.program), f"--kubeconfig={self.kubeconfig}", *arguments]

    def run(self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        """Return the standard output of a call. Raises KubectlError."""
        done = self.attempt(*arguments, stdin=stdin, seconds=seconds)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def attempt(
        self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Return the completed call, even after an error. Raises KubectlError at the time limit."""
        try:
            return subprocess.run(
                self.command(*arguments),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            words = " ".join(arguments)
            raise KubectlError(f"kubectl {words}: no end within {seconds:.0f} s") from error

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """Return one object. Raises KubectlError if it does not exist."""
        found: dict[str, Any] = json.loads(
            self.run("get", kind, name, *_in(namespace), "-o", "json")
        )
        return found

    def raw(self, path: str) -> str:
        """Return the response of the API server to GET of a path."""
        return self.run("get", "--raw", path)

    def apply(self, *objects: Object, namespace: str = "", user: str = "") -> None:
        """Apply objects, like ``kubectl apply -f``; user: is impersonated. Raises KubectlError."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.run("apply", *_in(namespace), *_as(user), "-f", "-", stdin=document)

    def patch(self, kind: str, name: str, namespace: str, change: Object) -> None:
        """Merge-patch an object. Raises KubectlError."""
        self.run(
            "patch", kind, name, *_in(namespace), "--type=merge", f"--patch={json.dumps(change)}"
        )

    def delete(self, kind: str, name: str, namespace: str = "", *options: str) -> None:
        """Delete an object without waiting; a missing object is no error."""
        self.run(
            "delete", kind, name, *_in(namespace), "--wait=false", "--ignore-not-found", *options
        )

    def logs(self, pod: str, namespace: str, *options: str) -> str:
        """Return the log of the first container of a pod."""
        return self.run("logs", pod, *_in(namespace), *options)

    def execute(
        self,
        pod: str,
        namespace: str,
        command: Sequence[str],
        *,
        user: str = "",
        container: str = "",
        seconds: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod; return the completed call. Raises KubectlError.

        container: instead of the first one.

        When the connection to a pod is lost, kubectl prints nothing and returns 0, whether the
        command has run or not (https://github.com/kubernetes/kubernetes/pull/137404). A call that
        lacks the end of the command is therefore repeated: repeating the command must do no harm.
        """
        place = [pod, *_in(namespace), *([f"--container={container}"] if container else [])]
        call = ("exec", *place, *_as(user), "--", *REPORT_END, *command)
        for _ in range(EXEC_ATTEMPTS):
            done = self.attempt(*call, seconds=seconds)
            if done.returncode != 0 or done.stdout.endswith(END):
                done.stdout = done.stdout.removesuffix(END)
                return done
        raise KubectlError(f"exec in {pod}: the connection was lost {EXEC_ATTEMPTS} times")

    @contextmanager
    def proxy(self) -> Iterator[tuple[str, int]]:
        """Run ``kubectl proxy`` in the block, and yield its host and port."""
        command = ["setpriv", "--pdeathsig", "KILL", "--", *self.command("proxy", "--port=0")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
            try:
                assert proxy.stdout is not None
                # "Starting to serve on 127.0.0.1:40001"
                host, _, port = proxy.stdout.readline().split()[-1].rpartition(":")
                yield host, int(port)
            finally:
                proxy.terminate()


def _in(namespace: str) -> list[str]:
    return [f"--namespace={namespace}"] if namespace else []


def _as(user: str) -> list[str]:
    return [f"--as={user}"] if user else []
