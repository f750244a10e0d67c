"""Address, credentials and proxy of the API server."""

import asyncio
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import incluster_config

from finetune_operator.kube import auth
from finetune_operator.kube.connection import Connection
from finetune_operator.kube.errors import Transient
from finetune_operator.kube.transport import Transport

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def kubeconfig(
    folder: Path, monkeypatch: pytest.MonkeyPatch, server: str, **more: str
) -> Configuration:
    """Return the configuration of a kubeconfig with this server."""
    cluster = {"name": "a", "cluster": {"server": server, **more}}
    context = {"name": "a", "context": {"cluster": "a", "user": "a"}}
    users = [{"name": "a", "user": {"token": "t"}}]
    file = folder / "kubeconfig"
    parts = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "a"}
    file.write_text(yaml.safe_dump(parts))
    monkeypatch.setenv("KUBECONFIG", str(file))
    configuration = Configuration()
    asyncio.run(auth.load(configuration))
    return configuration


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "http://proxy.example:3128"),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "api.example"}, None),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": ".example,10.0.0.1"}, None),
        (
            {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "other.example"},
            "http://proxy.example:3128",
        ),
    ],
)
def test_proxy_from_the_environment(
    environment: dict[str, str],
    proxy: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert kubeconfig(tmp_path, monkeypatch, "https://api.example:6443").proxy == proxy


def test_a_pod_ignores_the_proxy_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy for the internet does not know the address of the API server in the cluster."""
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("a certificate")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    asyncio.run(auth.load(configuration := Configuration()))
    assert (configuration.host, configuration.proxy) == ("https://10.96.0.1:443", None)


def test_proxy_of_the_kubeconfig_overrides_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    own = {"proxy-url": "http://own.example:3128"}
    configuration = kubeconfig(tmp_path, monkeypatch, "https://api.example:6443", **own)
    assert configuration.proxy == "http://own.example:3128"


def test_requests_use_the_proxy_password_and_not_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine api.example login someone password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    requests: list[tuple[str, str | None, str | None]] = []

    async def proxied(request: web.BaseRequest) -> web.Response:
        headers = request.headers
        requests.append(
            (str(request.url), headers.get("Authorization"), headers.get("Proxy-Authorization"))
        )
        return web.json_response({"kind": "Status"})

    async def run() -> None:
        runner = web.ServerRunner(web.Server(proxied))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.0.1:{port}")
        await auth.load(configuration := Configuration())
        transport = Transport(Connection(configuration))
        try:
            await transport.call("GET", "/version")
        finally:
            await transport.close()
            await runner.cleanup()

    kubeconfig(tmp_path, monkeypatch, "http://api.example")
    asyncio.run(run())
    assert requests == [("http://api.example/version", "Bearer t", "Basic dXNlcjpzZWNyZXQ=")]


async def test_a_login_waits_for_credentials_that_can_be_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kopf does not notice a login that fails, and continues without its watches."""
    answers = [Transient("the file is incomplete"), None]

    async def load(configuration: Configuration) -> None:
        configuration.host = "http://api.example"
        if (error := answers.pop(0)) is not None:
            raise error

    async def accepted(_: Configuration) -> bool:
        return False

    monkeypatch.setattr(auth, "load", load)
    monkeypatch.setattr(auth, "_are_rejected", accepted)
    monkeypatch.setattr(auth, "RETRY_SECONDS", 0)
    session = await auth.kopf_login()
    assert (session.server, answers) == ("http://api.example", [])
    assert "login failed: the file is incomplete" in caplog.text
    await session.aiohttp_session.close()
