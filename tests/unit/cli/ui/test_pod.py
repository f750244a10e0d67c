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
OURS = {"finetune_api", "finetune_cli", "finetune_trainer"}
LOADED = """
import sys
before = {name.split(".")[0] for name in sys.modules}
import finetune_cli.ui.__main__
from importlib import metadata
owners = metadata.packages_distributions()
names = {name.split(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
print(*(owner for name in names for owner in owners.get(name, [name])))
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def test_image_of_the_operator_has_the_packages_of_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    loaded = {name.lower().replace("_", "-") for name in done.stdout.split()}
    assert {"aiohttp", "kubernetes", "pydantic"} <= loaded
    pinned = set(re.findall(r"^([a-z0-9-]+)==", PINS.read_text(), re.MULTILINE))
    assert loaded - pinned - {name.replace("_", "-") for name in OURS} == set()


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
