import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.support.trainer import tiny, web
from tests.support.trainer.hub import Hub, serving
from tests.support.trainer.stores import ROWS
from tests.support.trainer.web import Bucket, Certificate
from tests.support.trainer.workshop import INTERPRETED, Server, Workshop, server

MakeWorkshop = Callable[..., Workshop]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Libraries of the trainer may emit warnings; the code of this project must not.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"), append=False)


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


@pytest.fixture(scope="session")
def servers(hub: Hub) -> Iterator["Servers"]:
    with ExitStack() as stack:
        yield Servers(hub, stack)


class Servers(dict[str, Server]):
    """The server of each backend, started at its first use."""

    def __init__(self, hub: Hub, stack: ExitStack) -> None:
        super().__init__()
        self._hub = hub
        self._stack = stack

    def __missing__(self, backend: str) -> Server:
        environment = {
            "HF_ENDPOINT": self._hub.url,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "UNSLOTH_COMPILE_LOCATION": self._stack.enter_context(TemporaryDirectory()),
        }
        if backend == INTERPRETED:
            # Triton reads it when it is imported.
            environment["TRITON_INTERPRET"] = "1"
        self[backend] = self._stack.enter_context(server(backend, **environment))
        return self[backend]


@pytest.fixture(scope="session")
def repositories(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The repositories of most tests: a base, a base without a chat template, and a dataset."""
    root = tmp_path_factory.mktemp("repositories")
    return {
        "chat": hub.add("model", "demo/tiny", tiny.model(root / "chat")),
        "plain": hub.add("model", "demo/plain", tiny.model(root / "plain", chat=False, bos=True)),
        "rows": hub.add("dataset", "demo/rows", tiny.dataset(root / "rows", tiny.rows(24))),
    }


@pytest.fixture(scope="session")
def make(
    servers: dict[str, Server],
    repositories: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeWorkshop:
    """Return a function that creates a job with a separate volume; arguments change its spec."""

    def made(*, work: Path | None = None, **changes: Any) -> Workshop:
        job = tiny.job(repositories["chat"], repositories["rows"], **changes)
        folder = tmp_path_factory.mktemp("job")
        return Workshop(servers, folder, work or folder / "work", job)

    return made


@pytest.fixture(scope="session")
def done(make: MakeWorkshop) -> Workshop:
    """A job that completed all stages; tests must not change it."""
    workshop = make()
    workshop.prepare_and_train()
    workshop.succeed("merge", build="b1")
    return workshop


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 17 MiB."""
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=17m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return web.certificate(tmp_path_factory.mktemp("tls"))


# One service for all modules: moto keeps its state in the process.
@pytest.fixture(scope="session")
def bucket(certificate: Certificate) -> Iterator[Bucket]:
    with web.s3(certificate) as found:
        found.put("rows/train.jsonl", ROWS)
        found.put("rows/README.md", b"not rows")
        found.put("rows/deep/test.jsonl", ROWS)
        yield found
