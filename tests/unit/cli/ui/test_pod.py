"""The program in the pod of the page: its packages, and its end."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

from tests.support.ports import free_port

PINS = Path(__file__).parents[4] / "constraints" / "operator.txt"
IMPORT = """
import sys
from importlib import metadata
owners, pinned = metadata.packages_distributions(), {*sys.argv[1:], "finetune-operator"}

class OnlyPinned:
    def find_spec(name, path, target=None):
        packages = {owner.lower().replace("_", "-") for owner in owners.get(name, ())}
        if packages and not packages & pinned:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, OnlyPinned)
import finetune_cli.ui.__main__
"""
"""Imports the page where no other packages are installed than those in the arguments."""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def test_page_needs_no_other_packages_than_the_operator() -> None:
    """The image of the operator runs it."""
    pinned = re.findall(r"^([a-z0-9-]+)==", PINS.read_text(), re.MULTILINE)

    def imported(packages: list[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", IMPORT, *packages]
        return subprocess.run(command, capture_output=True, text=True, env=environment())

    complete = imported(pinned)
    assert complete.returncode == 0, complete.stderr
    pinned.remove("aiohttp")
    assert "ModuleNotFoundError: aiohttp" in imported(pinned).stderr


def test_process_serves_the_page_until_sigterm(tmp_path: Path) -> None:
    port = free_port()
    authority = tmp_path / "ca.crt"
    authority.write_text("")
    command = ["-m", "finetune_cli.ui", f"--port={port}", f"--url=http://127.0.0.1:{port}"]
    with subprocess.Popen(
        [sys.executable, *command, f"--certificate-authority={authority}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(KUBERNETES_SERVICE_HOST="192.0.2.1", KUBERNETES_SERVICE_PORT="443"),
    ) as process:
        try:
            status, text = answer(port)
            assert status == 401
            assert 'name="token"' in text
            assert "FineTuneJob" not in text
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def answer(port: int) -> tuple[int, str]:
    """Return status and page for a user who has sent no token, as soon as the process listens."""
    deadline = time.monotonic() + 120
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        with closing(connection), suppress(ConnectionError):
            connection.request("GET", "/")
            response = connection.getresponse()
            return response.status, response.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_wrong_url_and_a_place_outside_a_pod_are_named() -> None:
    for url, extra, message in (
        ("ftj.example.com", {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}, "is not the URL of a page"),
        ("https://ftj.example.com", {"KUBERNETES_SERVICE_HOST": ""}, "run this program in a pod"),
    ):
        done = subprocess.run(
            [
                sys.executable,
                *("-m", "finetune_cli.ui", "--port=0", f"--url={url}"),
                "--certificate-authority=unused",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=environment(KUBERNETES_SERVICE_PORT="443", **extra),
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
