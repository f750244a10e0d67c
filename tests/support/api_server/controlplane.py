"""A real control plane of plain processes: etcd, kube-apiserver, optional controller manager.

The binaries are in the folder ``KUBEBUILDER_ASSETS``, as for envtest. All processes listen on free
ports of the loopback interface and write their files to one temporary folder. There is no kubelet:
the tests write the status that a kubelet would report.

The only token is that of the administrator. The ServiceAccount admission plugin is off, so that
pods can be created without the controller that creates service accounts.
"""

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.support.api_server.operator_forks import Fork
from tests.support.ports import free_port, free_ports

TOKEN = "administrator"
ADMINISTRATOR = {"Authorization": f"Bearer {TOKEN}"}
KEY = "service-accounts.key"
CRD = Path(__file__).parents[3] / "crds" / "finetune.dev_finetunejobs.yaml"
CRDS = sorted(CRD.parent.glob("finetune.dev_*.yaml"))
PATIENCE_SECONDS = 240.0
"""Time limit of a wait. An event ends each wait; the limit allows for a busy machine."""
REQUEST_SECONDS = 90.0
"""Time limit of a request, longer than that of the API server."""
FIRST_POLL, LAST_POLL = 0.05, 0.25
"""Seconds between two polls: they grow, because the requests of tests that wait would occupy the
cores that others need."""
KEPT_SECONDS = 10.0
"""Time for which an idle connection is kept; the API server closes it only later."""
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Prefix of a command that the kernel ends together with the thread that started it."""


class ApiError(Exception):
    """The API server rejected a request with an HTTP status and a Status object."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"{status}: {body.get('message', body)}")
        self.status = status
        self.body = body


class _Connection(http.client.HTTPSConnection):
    used = 0.0
    """Time of the last answer, by the monotonic clock."""


_kept: dict[str, _Connection] = {}
"""The idle connection of the main thread to each server."""


@dataclass(frozen=True, kw_only=True)
class ApiServer:
    """A running API server; ``kubeconfig`` and ``headers`` are the administrator's."""

    server: str
    kubeconfig: Path
    assets: Path
    tls: ssl.SSLContext = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each request."""

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request as the administrator and return the decoded answer.

        path: with the query, for example ``/api/v1/namespaces``. If the server is busy, for example
        while a CRD changes, the request is repeated after Retry-After. Raises ApiError.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {**self.headers, "Content-Type": content_type, **(headers or {})}
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            answer, text = self._exchange(method, path, data, sent)
            if answer.status < 400:
                return _decoded(text)
            later = answer.headers.get("Retry-After")
            if answer.status != 429 or later is None or time.monotonic() > deadline:
                raise ApiError(answer.status, _decoded(text))
            time.sleep(float(later))

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send one request.

        Tests that wait send many requests, and a TLS handshake costs more than a request. So the
        main thread keeps its connection.
        """
        main = threading.current_thread() is threading.main_thread()
        connection = _kept.pop(self.server, None) if main else None
        if connection is not None and time.monotonic() - connection.used > KEPT_SECONDS:
            connection.close()
            connection = None
        if connection is None:
            address = self.server.removeprefix("https://")
            connection = _Connection(address, timeout=REQUEST_SECONDS, context=self.tls)
        try:
            connection.request(method, path, data, dict(headers))
            answer = connection.getresponse()
            text = answer.read()
        except BaseException:
            connection.close()
            raise
        connection.used = time.monotonic()
        if main:
            _kept[self.server] = connection
        else:
            connection.close()
        return answer, text

    def get(self, path: str) -> dict[str, Any]:
        """Return an object or a list. Raises ApiError."""
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        """Create an object in a collection. Raises ApiError."""
        return self.request("POST", path, body)

    def put(self, path: str, body: Any) -> dict[str, Any]:
        """Replace an object. Raises ApiError."""
        return self.request("PUT", path, body)

    def merge(self, path: str, body: Any) -> dict[str, Any]:
        """Merge-patch an object. Raises ApiError."""
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def apply(self, path: str, body: Any, manager: str = "tests") -> dict[str, Any]:
        """Server-side apply an object, by force. Raises ApiError."""
        query = f"?fieldManager={manager}&force=true"
        return self.request("PATCH", path + query, body, "application/apply-patch+yaml")

    def delete(self, path: str) -> dict[str, Any]:
        """Delete an object. Raises ApiError."""
        return self.request("DELETE", path)

    def namespace(self, name: str) -> str:
        """Create a namespace and return its name."""
        self.post("/api/v1/namespaces", {"metadata": {"name": name}})
        return name


@dataclass(frozen=True, kw_only=True)
class ControlPlane(ApiServer):
    """A control plane of the tests."""

    folder: Path
    etcd: subprocess.Popen[bytes] = field(repr=False)


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return decoded if isinstance(decoded, dict) else {"items": decoded}


def assets_folder() -> Path:
    """Return the folder of the binaries. Raise RuntimeError with a remediation."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    missing = [
        name for name in ("etcd", "kube-apiserver") if not (folder and Path(folder, name).exists())
    ]
    if missing:
        raise RuntimeError(
            f"KUBEBUILDER_ASSETS ({folder or 'not set'}) holds no {' and no '.join(missing)}; "
            "say: export KUBEBUILDER_ASSETS=$(python3 dev/cluster assets)"
        )
    return Path(folder)


def wait_until(
    what: str,
    ready: Callable[[], bool],
    seconds: float = PATIENCE_SECONDS,
    *,
    last_poll: float = LAST_POLL,
) -> None:
    """Poll ``ready`` until it returns True. Raises TimeoutError with ``what`` in the message."""
    deadline = time.monotonic() + seconds
    pause = FIRST_POLL
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.2, last_poll)


@contextmanager
def process(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the end of the block; send SIGTERM then, and SIGKILL after 30 s.

    The kernel ends the process if the tests are killed, so that no API server is left running.
    """
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*ENDS_WITH_PARENT, *(str(word) for word in command)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
        )
    try:
        yield running
    finally:
        end(running)


def end(running: subprocess.Popen[bytes] | Fork) -> None:
    """Send SIGTERM to a process, and SIGKILL after 30 s."""
    if running.poll() is None:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@dataclass(frozen=True, kw_only=True)
class Servers:
    """etcd and kube-apiserver on fixed ports: they can be stopped and started again."""

    folder: Path
    assets: Path
    client: int
    """Port of etcd."""
    peer: int
    secure: int
    """Port of kube-apiserver."""

    @classmethod
    def prepare(cls, folder: Path) -> "Servers":
        """Choose ports, and write the files of the API server. Raises RuntimeError."""
        client, peer, secure = free_ports(3)
        subprocess.run(
            ["openssl", "genrsa", "-traditional", "-out", str(folder / KEY), "2048"],
            check=True,
            capture_output=True,
        )
        (folder / "tokens.csv").write_text(f'{TOKEN},administrator,1,"system:masters"\n')
        return cls(folder=folder, assets=assets_folder(), client=client, peer=peer, secure=secure)

    @contextmanager
    def etcd(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run etcd until the end of the block."""
        command: list[str | Path] = [
            self.assets / "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self.client}",
            f"--advertise-client-urls=http://127.0.0.1:{self.client}",
            f"--listen-peer-urls=http://127.0.0.1:{self.peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self.peer}",
            f"--initial-cluster=default=http://127.0.0.1:{self.peer}",
            "--unsafe-no-fsync",
            # Benchmarks store more than the 2 GiB that are the default.
            "--quota-backend-bytes=8589934592",
            "--log-level=warn",
        ]
        with process(command, self.folder / "etcd.log") as running:
            yield running

    @contextmanager
    def running(self, *options: str) -> Iterator[ControlPlane]:
        """Run both until the end of the block. Raises RuntimeError, TimeoutError.

        options: further ones of the API server.
        """
        log = self.folder / "kube-apiserver.log"
        server = f"https://127.0.0.1:{self.secure}"
        command: list[str | Path] = [
            self.assets / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.client}",
            f"--cert-dir={self.folder / 'certificates'}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.secure}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / KEY}",
            f"--service-account-signing-key-file={self.folder / KEY}",
            "--disable-admission-plugins=ServiceAccount",
            # Some distributions enable this plugin. It requires a permission to set
            # ownerReferences.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            "--endpoint-reconciler-type=none",
            *options,
        ]
        with self.etcd() as store, process(command, log) as api:
            wait_until(
                f"kube-apiserver answers (log: {log})",
                lambda: answers(f"{server}/readyz", store, api),
            )
            authority = (self.folder / "certificates" / "apiserver.crt").read_bytes()
            kubeconfig = self.folder / "kubeconfig"
            kubeconfig.write_text(_kubeconfig(server, authority))
            try:
                yield ControlPlane(
                    folder=self.folder,
                    server=server,
                    kubeconfig=kubeconfig,
                    assets=self.assets,
                    tls=ssl.create_default_context(cadata=authority.decode()),
                    headers=ADMINISTRATOR,
                    etcd=store,
                )
            finally:
                if (connection := _kept.pop(server, None)) is not None:
                    connection.close()


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Start etcd and kube-apiserver with the CRD. Raises RuntimeError, TimeoutError."""
    with Servers.prepare(folder).running() as plane:
        install_crd(plane)
        yield plane


@contextmanager
def controller_manager(plane: ControlPlane, *options: str) -> Iterator[None]:
    """Run the controller manager, which creates the pods of Jobs and collects garbage."""
    port = free_port()
    command: list[str | Path] = [
        plane.assets / "kube-controller-manager",
        f"--kubeconfig={plane.kubeconfig}",
        f"--service-account-private-key-file={plane.folder / KEY}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        # The nodes of the tests have no kubelet that would renew their status.
        "--node-monitor-grace-period=1h",
        *options,
    ]
    log = plane.folder / "kube-controller-manager.log"
    with process(command, log) as manager:
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_until(
            f"the controller manager runs (log: {log})",
            lambda: _runs(manager) and has(plane, account),
        )
        yield


@contextmanager
def scheduler(plane: ControlPlane) -> Iterator[None]:
    """Run kube-scheduler, which assigns nodes to pods and binds WaitForFirstConsumer volumes."""
    port = free_port()
    command: list[str | Path] = [
        plane.assets / "kube-scheduler",
        f"--kubeconfig={plane.kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
    ]
    log = plane.folder / "kube-scheduler.log"
    with process(command, log) as running:
        wait_until(f"the scheduler listens (log: {log})", lambda: _runs(running) and _open(port))
        yield


def _open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=REQUEST_SECONDS):
            return True
    except OSError:
        return False


def install_crd(plane: ControlPlane) -> None:
    """Apply the CRDs of the checkout and wait until they are served."""
    crds = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in CRDS]
    for crd in crds:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
        plane.apply(path, crd)
    for crd in crds:
        plural = crd["spec"]["names"]["plural"]
        everywhere = f"/apis/finetune.dev/v1alpha1/{plural}"
        wait_until(f"{plural} are served", lambda path=everywhere: has(plane, path))  # type: ignore[misc]


def has(plane: ApiServer, path: str) -> bool:
    """Report whether an object exists, or whether the objects of a kind are served."""
    try:
        plane.get(path)
    except ApiError as error:
        # 429: the storage of a kind whose CRD was just installed is being set up.
        if error.status not in (404, 429):
            raise
        return False
    return True


def _runs(running: subprocess.Popen[bytes]) -> bool:
    if running.poll() is not None:
        raise RuntimeError(f"{running.args!r} ended with {running.returncode}")
    return True


def answers(url: str, *needed: subprocess.Popen[bytes]) -> bool:
    """Report whether a server is ready. Raises RuntimeError if a needed process has ended."""
    for running in needed:
        _runs(running)
    request = urllib.request.Request(url, headers=ADMINISTRATOR)
    # The server writes its certificate during the start, so the certificate cannot be verified yet.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS, context=unverified) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _kubeconfig(server: str, authority: bytes) -> str:
    data = base64.b64encode(authority).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [
                {
                    "name": "tests",
                    "cluster": {"server": server, "certificate-authority-data": data},
                }
            ],
            "users": [{"name": "administrator", "user": {"token": TOKEN}}],
            "contexts": [
                {"name": "tests", "context": {"cluster": "tests", "user": "administrator"}}
            ],
        }
    )
