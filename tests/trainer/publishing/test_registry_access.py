"""Credentials of a registry: which are sent, to whom, and how a refusal is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.registry import Registry
from tests.support.trainer.proxy import proxy
from tests.support.trainer.publishing import Published, Volume, run
from tests.support.trainer.web import Certificate
from tests.trainer.publishing.conftest import USER, docker_config

from finetune_trainer.errors import AccessDenied, PublishFailed
from finetune_trainer.publishing.oci import blobs
from finetune_trainer.sources import egress
from finetune_trainer.sources.oci import docker_config as configuration
from finetune_trainer.sources.oci.registry_auth import challenges, is_trusted_realm
from finetune_trainer.sources.transfer import is_full


@pytest.fixture
def target(volume: Volume, server: Registry, certificate: Certificate) -> dict[str, Any]:
    oci = {"repository": f"{server.host}/team/tiny", "ca": str(certificate.authority)}
    return volume.target(oci=oci)


def assert_denied(done: Published, *said: str) -> None:
    reason, message = done.failure
    assert (reason, type(done.error)) == ("AccessDenied", PublishFailed)
    for each in said:
        assert each in message
    assert USER[1] not in f"{message}{done.error}"


def test_basic_credentials(
    volume: Volume, server: Registry, login: dict[str, str], target: dict[str, Any]
) -> None:
    assert run(volume, target, environment=login).error is None
    refused = [each for each in server.requests if each[2] is None]
    assert len(refused) == 1, "the header is kept after the first challenge"


def test_registry_behind_a_proxy(
    volume: Volume,
    server: Registry,
    target: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the proxy knows the name of the registry."""
    port = int(server.host.rpartition(":")[2])
    target["oci"]["repository"] = "registry.corp.test/team/tiny"
    with proxy({"registry.corp.test": port}, tmp_path / "log") as between:
        monkeypatch.setenv("HTTPS_PROXY", between.url)
        monkeypatch.setenv("NO_PROXY", "elsewhere.corp.test")
        done = run(volume, target)
    assert done.error is None, done.failure
    assert between.requests() == {"registry.corp.test:443"}


def test_an_exception_from_the_proxy_may_name_a_port(
    volume: Volume, server: Registry, target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an exception is for this port alone; another kind of proxy does not matter then."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", server.host)
    done = run(volume, target)
    assert done.error is None, done.failure
    monkeypatch.setenv("NO_PROXY", f"{server.host.rpartition(':')[0]}:443")
    assert "HTTPS_PROXY" in run(volume, target).failure[1]


@pytest.mark.parametrize(
    ("variable", "value", "scheme"),
    [
        ("HTTPS_PROXY", "socks5://someone:secret@proxy.example.com:1080", "socks5"),
        ("ALL_PROXY", "socks5h://proxy.example.com:1080", "socks5h"),
        ("https_proxy", "ftp://proxy.example.com", "ftp"),
        ("HTTPS_PROXY", "proxy.example.com:port", "http"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    volume: Volume,
    target: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    scheme: str,
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("NO_PROXY", "elsewhere.corp.test")
    reason, message = run(volume, target).failure
    assert reason == "InvalidSpec"
    assert f"{variable.upper()} is not the URL of an HTTP proxy (its scheme is {scheme})" in message
    assert "secret" not in message


def test_token_for_push_and_pull(
    volume: Volume, server: Registry, login: dict[str, str], target: dict[str, Any]
) -> None:
    """The challenge of the first request, a HEAD, names a token for pulls only."""
    server.bearer = True
    assert run(volume, target, environment=login).error is None
    assert server.scopes == ["repository:team/tiny:pull,push"]


def test_identity_token(volume: Volume, server: Registry, target: dict[str, Any]) -> None:
    server.user, server.bearer = USER, True
    config = {"auths": {server.host: {"identitytoken": USER[1]}}}
    environment = {"PUBLISH_MAIN_DOCKER_CONFIG_JSON": json.dumps(config)}
    assert run(volume, target, environment=environment).error is None


@pytest.mark.parametrize("uses", [1, 2, 5])
def test_token_that_expires_within_a_blob(
    volume: Volume,
    server: Registry,
    login: dict[str, str],
    target: dict[str, Any],
    uses: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs, "PART", 20_000)
    server.bearer, server.uses = True, uses
    done = run(volume, target, environment=login)
    assert done.error is None, done.failure
    assert len(server.tokens) > 5
    assert len(server.finished) == len(set(server.finished))


def test_token_is_renewed_before_it_expires(
    volume: Volume, server: Registry, login: dict[str, str], target: dict[str, Any]
) -> None:
    server.bearer, server.expires_in = True, 1e-6  # type: ignore[assignment]
    assert run(volume, target, environment=login).error is None
    refused = [each for each in server.requests if each[2] is None and "/token" not in each[1]]
    assert len(refused) == 1
    assert len(server.tokens) > 10


@pytest.mark.parametrize("bearer", [False, True])
def test_wrong_password(
    volume: Volume, server: Registry, target: dict[str, Any], bearer: bool
) -> None:
    server.user, server.bearer = ("robot", "another"), bearer
    done = run(volume, target, environment=docker_config(server.host))
    assert_denied(done, "HTTP 401", "publish[main].oci.secretRef", "permission to push")


@pytest.mark.parametrize("bearer", [False, True])
def test_no_credentials(
    volume: Volume, server: Registry, target: dict[str, Any], bearer: bool
) -> None:
    server.user, server.bearer = USER, bearer
    for environment in ({}, docker_config("elsewhere.test")):
        done = run(volume, target, environment=environment)
        assert_denied(done, "set publish[main].oci.secretRef to a Secret with credentials")
    assert server.authorizations == {None}


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PATCH", "PUT"])
def test_forbidden_request(
    volume: Volume,
    server: Registry,
    login: dict[str, str],
    target: dict[str, Any],
    method: str,
) -> None:
    server.refused = {method}
    assert_denied(run(volume, target, environment=login), "HTTP 403")
    assert not server.manifests


def test_hostile_realm_gets_no_credentials(
    volume: Volume,
    server: Registry,
    other: Registry,
    login: dict[str, str],
    target: dict[str, Any],
) -> None:
    server.bearer = True
    port = other.host.partition(":")[2]
    for realm in (
        f"https://localhost:{port}/token",
        f"http://{server.host}/token",
        f"https://{server.host}@localhost:{port}/token",
        f"https://user@{server.host}/token",
        "https://auth.evil.test/token",
        "file:///etc/passwd",
        "//x",
        "https://[",
        "",
    ):
        server.realm = realm
        reason, message = run(volume, target, environment=login).failure
        assert reason == "TargetRejected"
        assert "asks for its credentials at" in message
    assert not other.requests
    assert server.authorizations == {None}
    # Without credentials, no realm can get any, and an invalid one is an error of the registry.
    server.realm = "https://["
    assert run(volume, target).failure[0] in ("TargetRejected", "Transient")


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"token": 1}', b'{"token": "a b"}', b"{" * 9999])
def test_invalid_answer_of_the_realm(
    volume: Volume,
    server: Registry,
    login: dict[str, str],
    target: dict[str, Any],
    answer: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.fakes import registry

    server.bearer = True
    monkeypatch.setattr(
        registry._Handler, "_token", lambda self, query: self._answer(200, answer, {})
    )
    reason, message = run(volume, target, environment=login).failure
    assert reason == "TargetRejected"
    assert "returned no token (HTTP 200)" in message


def test_redirected_downloads_get_no_credentials(
    volume: Volume,
    server: Registry,
    other: Registry,
    login: dict[str, str],
    target: dict[str, Any],
) -> None:
    other.blobs = server.blobs
    server.redirect = f"https://{other.host}/"
    assert run(volume, target, environment=login).error is None
    assert other.requests
    assert other.authorizations == {None}


def test_policy_of_hosts_applies_to_other_servers_alone(
    volume: Volume,
    server: Registry,
    other: Registry,
    target: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``policy.publishDestinations`` allows the registry itself."""
    announced: set[tuple[str, bool]] = set()

    def announce(url: str, *, chosen_by_job: bool) -> None:
        announced.add((url.split("/")[2], chosen_by_job))

    monkeypatch.setattr(egress, "announce", announce)
    other.blobs = server.blobs
    server.redirect = f"https://{other.host}/"
    assert run(volume, target).error is None
    assert announced == {(server.host, False), (other.host, True)}


def test_uploads_at_another_host_get_no_credentials(
    volume: Volume,
    server: Registry,
    other: Registry,
    login: dict[str, str],
    target: dict[str, Any],
) -> None:
    other.blobs, other.uploads = server.blobs, server.uploads
    server.uploads_at = other.uploads_at = f"https://{other.host}"
    done = run(volume, target, environment=login)
    assert done.error is None, done.failure
    assert {each[0] for each in other.requests} == {"PATCH", "PUT"}
    assert other.authorizations == {None}


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PATCH", "PUT"])
def test_redirects_get_no_credentials(
    volume: Volume,
    server: Registry,
    other: Registry,
    login: dict[str, str],
    target: dict[str, Any],
    method: str,
) -> None:
    """Any other host may ask for credentials: it never gets any."""
    other.user = ("someone", "else")
    for scheme in ("https", "http"):
        server.answers = [(method, 307, {"Location": f"{scheme}://{other.host}/v2/x/y"})]
        done = run(volume, target, environment=login)
        assert done.error is not None
        assert done.failure[0] in ("AccessDenied", "TargetRejected")
    assert {each[0] for each in other.requests} == {method}
    assert other.authorizations == {None}


def test_endless_redirects(
    volume: Volume, server: Registry, login: dict[str, str], target: dict[str, Any]
) -> None:
    server.answers = [("GET", 307, {"Location": "/v2/a"})] * 100
    reason, message = run(volume, target, environment=login).failure
    assert reason == "TargetRejected"
    assert "redirects a request more than 5 times" in message


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1/x", "ftp://x/", "https://[x/", "https://x:0/"]
)
def test_invalid_location_of_an_upload(
    volume: Volume,
    server: Registry,
    login: dict[str, str],
    target: dict[str, Any],
    location: str,
) -> None:
    server.answers = [("POST", 202, {"Location": location})]
    reason, message = run(volume, target, environment=login).failure
    assert reason == "TargetRejected"
    assert "no https:// address" in message


REALMS = [
    ("registry.example.com", "https://registry.example.com/token", True),
    ("registry.example.com", "https://registry.example.com:5001/token", True),
    ("Registry.Example.com", "https://registry.example.com./token", True),
    ("registry.example.com", "https://gitlab.example.com/jwt/auth", True),
    ("registry.example.com", "https://example.com/jwt/auth", True),
    ("registry-1.docker.io", "https://auth.docker.io/token", True),
    ("registry.ml.svc.cluster.local", "https://auth.ml.svc.cluster.local/token", True),
    ("127.0.0.1", "https://127.0.0.1:5001/token", True),
    ("registry.example.com", "http://registry.example.com/token", False),
    ("registry.example.com", "https://registry.example.com.evil.test/token", False),
    ("registry.example.com", "https://evilregistry.example.com.test/", False),
    ("registry.example.com", "https://auth.other.com/token", False),
    ("registry.example.com", "https://com/token", False),
    ("registry.example.com", "https://xexample.com/token", False),
    ("registry.example.com", "https://a.b.example.com/token", False),
    ("example.com", "https://other.com/token", False),
    ("example.co.uk", "https://evil.co.uk/token", False),
    ("registry.example.co.uk", "https://co.uk/token", False),
    ("registry.example.co.uk", "https://auth.example.co.uk/token", True),
    ("registry.ml.svc.cluster.local", "https://auth.evil.svc.cluster.local/token", False),
    ("10.0.0.1", "https://10.0.0.2/token", False),
    ("10.0.0.1", "https://9.0.0.1/token", False),
    ("registry", "https://auth/token", False),
    ("registry.example.com", "https://user:pass@registry.example.com/token", False),
    ("registry.example.com", "https:registry.example.com", False),
]


@pytest.mark.parametrize(("host", "realm", "trusted"), REALMS)
def test_realms(host: str, realm: str, trusted: bool) -> None:
    assert is_trusted_realm(realm, host) is trusted


def test_challenges() -> None:
    header = 'Basic realm="a, Bearer b", Bearer realm="https://x/token",service="s",scope="a:b,c"'
    found = challenges(header)
    assert found["bearer"].parameters == {
        "realm": "https://x/token",
        "service": "s",
        "scope": "a:b,c",
    }
    assert found["basic"].scheme == "basic"
    assert challenges("Negotiate") == challenges("") == {}


@pytest.mark.parametrize(
    ("key", "repository", "found"),
    [
        ("r.test", "r.test/a/b", True),
        ("https://r.test/v2/", "r.test/a/b", True),
        ("http://r.test", "r.test/a/b", True),
        ("r.test/a", "r.test/a/b", True),
        ("r.test:5000", "r.test:5000/a/b", True),
        ("https://index.docker.io/v1/", "docker.io/a/b", True),
        ("docker.io", "docker.io/a/b", True),
        ("r.test:5000", "r.test/a/b", False),
        ("r.test/a/c", "r.test/a/b", False),
        ("r.test/a/b/c", "r.test/a/b", False),
        ("xr.test", "r.test/a/b", False),
        ("test", "r.test/a/b", False),
    ],
)
def test_entry_of_a_repository(key: str, repository: str, found: bool) -> None:
    text = json.dumps({"auths": {key: {"auth": "dTpwOnE="}}})
    login = configuration.login(text, repository, field="f")
    expected = configuration.Login(user="u", password="p:q") if found else None
    assert login == expected


def test_most_specific_entry_applies() -> None:
    entries = {"r.test": {"auth": "dTpw"}, "r.test/a": {"username": "v", "password": "q"}}
    text = json.dumps({"auths": entries})
    login = configuration.login(text, "r.test/a/b", field="f")
    assert login == configuration.Login(user="v", password="q")


def test_a_password_may_be_a_file_with_line_breaks() -> None:
    """As the key of a service account of Google Artifact Registry."""
    key = '{\n  "type": "service_account"\n}'
    text = json.dumps({"auths": {"r.test": {"username": "_json_key", "password": key}}})
    found = configuration.login(text, "r.test/a", field="publish[a].oci.secretRef")
    assert found is not None
    assert found.password == key


def test_a_file_that_names_only_a_helper_may_be_one_without_a_login() -> None:
    text = '{"credsStore": "desktop"}'
    assert configuration.login(text, "r.test/a", field="~/.docker", helpers=True) is None


@pytest.mark.parametrize(
    ("status", "text", "full"),
    [
        (507, "", True),
        (403, "DENIED: quota exceeded", True),
        (500, "no space left on device", True),
        (429, "Quota exceeded for requests per minute", False),
        (403, "access to repository acme/quota-bot is denied", False),
    ],
)
def test_a_full_registry_is_no_rate_limit_and_no_denied_access(
    status: int, text: str, full: bool
) -> None:
    assert is_full(status, text) is full


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a Docker configuration"),
        ("[]", "is not a Docker configuration"),
        ("{" * 100_000, "is not a Docker configuration"),
        ('{"auths": 3}', "is not a Docker configuration"),
        ('{"auths": {"r.test": "correct"}}', "has an invalid entry for r.test"),
        ('{"auths": {"r.test": {"auth": "%%%"}}}', "has an invalid entry for r.test"),
        ('{"auths": {"r.test": {"username": 1}}}', "has an invalid entry for r.test"),
        ('{"auths": {"r.test": {"password": "correct\\n"}}}', "has an invalid entry for r.test"),
        ('{"credsStore": "desktop"}', "only the name of a credential helper"),
    ],
)
def test_unusable_configuration(text: str, problem: str) -> None:
    with pytest.raises(AccessDenied, match=r"publish\[a\]\.oci\.secretRef") as raised:
        configuration.login(text, "r.test/a", field="publish[a].oci.secretRef")
    assert problem in str(raised.value)
    assert "correct" not in str(raised.value).replace("incorrect", "")
