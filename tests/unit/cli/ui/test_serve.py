"""``ftj ui`` listens on 127.0.0.1 alone, and prints an address and a code that belong together."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import yaml

from clidocs import example_cluster
from finetune_cli.errors import CommandFailed
from finetune_cli.ui import serve
from finetune_trainer.errors import Stopped

SECONDS = 60


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    with example_cluster.serving() as url:
        config = {
            "current-context": "demo",
            "clusters": [{"name": "demo", "cluster": {"server": url}}],
            "users": [{"name": "demo", "user": {}}],
            "contexts": [
                {"name": "demo", "context": {"cluster": "demo", "user": "demo", "namespace": "x"}}
            ],
        }
        path = tmp_path / "config"
        path.write_text(yaml.safe_dump(config))
        yield path


def start(kubeconfig: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "finetune_cli", "ui", "--kubeconfig", str(kubeconfig), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # In the background of a shell, SIGINT is ignored, and so it is in all further processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def announced(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return address and code."""
    assert process.stdout is not None
    text = ""
    while "press Ctrl-C" not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    found = re.search(r"Address +(\S+)\n +Code +(\S+)\n", text)
    assert found is not None, text
    return found[1], found[2]


def test_process_serves_until_it_is_stopped(kubeconfig: Path) -> None:
    with start(kubeconfig) as process:
        try:
            address, code = announced(process)
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{16}/", address)
            assert code not in address
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address, timeout=SECONDS)
            assert refused.value.code == 401
            refused.value.close()
            port = int(address.split(":")[2].split("/")[0])
            with socket.socket() as other:
                other.settimeout(5)
                with pytest.raises(OSError, match="refused"):
                    other.connect(("127.0.0.2", port))
        finally:
            process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert out == ""
    assert "Traceback" not in err
    assert "unexpected" not in err
    assert process.returncode == 130


def test_sigterm_ends_the_server() -> None:
    with pytest.raises(Stopped):
        serve.run(mock.Mock(), 0, lambda address, code: os.kill(os.getpid(), signal.SIGTERM))


def test_port_that_is_used_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(CommandFailed) as refused:
            serve.run(mock.Mock(), port, mock.Mock())
    assert str(refused.value) == (
        f"port {port} of 127.0.0.1 cannot be used (Address already in use): set --port to another "
        "one"
    )
