"""A pod of any namespace asks the operator for the metrics of all tenants.

Each case connects to the real server over TLS. The API server is replaced by a function that
answers reviews; tests/integration/test_secure_metrics.py uses a real one.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.ports import free_port

from finetune_operator.config import MetricsConfig
from finetune_operator.kube.errors import Transient
from finetune_operator.metrics_server import access, certificate, self_signed, server
from finetune_operator.metrics_server.access import (
    ALLOWED,
    ALLOWED_SECONDS,
    BURST,
    CONCURRENT_REVIEWS,
    DENIED_SECONDS,
    FORBIDDEN,
    INVALID_TOKEN,
    MOST_ANSWERS,
    NO_TOKEN,
    TOO_MANY,
    UNAVAILABLE,
    AccessControl,
    Answer,
)
from finetune_operator.rate_limit import MOST_KEYS

pytestmark = pytest.mark.finding(13, "metrics of all tenants are readable by every pod")
POD = "10.0.0.1"


class ApiServer:
    """Answers reviews: the user of a token is its text; ``prometheus`` may read the metrics."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fails = False
        self.transport = self

    async def call(
        self, method: str, path: str, *, body: dict[str, Any], fenced: bool
    ) -> dict[str, Any]:
        assert method == "POST"
        assert not fenced, "a standby cannot send fenced writes"
        self.calls.append((path, body["spec"]))
        if self.fails:
            raise Transient("no answer")
        if path == "/apis/authentication.k8s.io/v1/tokenreviews":
            token = body["spec"]["token"]
            user = {"username": token, "groups": ["system:serviceaccounts"], "extra": {"a": ["b"]}}
            return {"status": {"authenticated": not token.startswith("forged"), "user": user}}
        assert path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return {"status": {"allowed": body["spec"]["user"] == "prometheus"}}


@asynccontextmanager
async def serving(api: ApiServer, **config: Any) -> AsyncIterator[Callable[..., Any]]:
    """Run the server; yield a function that sends a request and returns status and text."""
    settings = MetricsConfig.model_validate(config)
    async with server.serving(settings, api, free_port()) as port:  # type: ignore[arg-type]
        scheme = "https" if settings.secure else "http"
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def get(path: str = "/metrics", **headers: str) -> tuple[int, str]:
                url = f"{scheme}://127.0.0.1:{port}{path}"
                async with session.get(url, headers=headers) as answer:
                    return answer.status, await answer.text()

            yield get


REQUESTS: dict[str, tuple[dict[str, str], Answer]] = {
    "without a token": ({}, NO_TOKEN),
    "empty token": ({"Authorization": "Bearer "}, NO_TOKEN),
    "password": ({"Authorization": "Basic cHJvbWV0aGV1czp4"}, NO_TOKEN),
    "token without a scheme": ({"Authorization": "prometheus"}, NO_TOKEN),
    "forged token": ({"Authorization": "Bearer forged"}, INVALID_TOKEN),
    "token of another tenant": ({"Authorization": "Bearer tenant"}, FORBIDDEN),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_request_without_permission_reads_no_metric(name: str) -> None:
    headers, expected = REQUESTS[name]
    async with serving(ApiServer()) as get:
        status, text = await get(**headers)
    assert (status, text) == (expected.status, f"{expected.text}\n")
    assert "# HELP" not in text


async def test_authorized_scraper_reads_the_metrics() -> None:
    api = ApiServer()
    async with serving(api) as get:
        for scheme in ("Bearer", "bearer"):
            status, text = await get(Authorization=f"{scheme} prometheus")
            assert status == 200
            assert "leader_election_master_status" in text
    _, (_, subject) = api.calls
    assert subject == {
        "user": "prometheus",
        "groups": ["system:serviceaccounts"],
        "uid": "",
        "extra": {"a": ["b"]},
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }


async def test_probes_are_not_on_the_port_of_the_metrics() -> None:
    async with serving(ApiServer()) as get:
        for path in ("/healthz", "/readyz", "/"):
            assert (await get(path))[0] == 404


async def test_plain_http_is_served_only_on_request() -> None:
    assert MetricsConfig().secure
    async with serving(ApiServer(), secure=False) as get:
        assert (await get())[0] == 200


async def test_failed_review_denies_access() -> None:
    api = ApiServer()
    api.fails = True
    async with serving(api) as get:
        status, text = await get(Authorization="Bearer prometheus")
    assert (status, text) == (UNAVAILABLE.status, f"{UNAVAILABLE.text}\n")


class Reviews:
    """Decides by token, and counts the reviews; the clock moves on request."""

    def __init__(self) -> None:
        self.now, self.tokens = 0.0, list[str]()
        self.access = AccessControl(self._review, clock=lambda: self.now)

    async def _review(self, token: str) -> Answer:
        self.tokens.append(token)
        return {"prometheus": ALLOWED, "tenant": FORBIDDEN}.get(token, INVALID_TOKEN)

    async def decide(self, token: str, client: str = POD) -> Answer:
        return await self.access.answer(f"Bearer {token}", client)


async def test_answers_are_cached_for_a_bounded_time() -> None:
    reviews = Reviews()
    for token, seconds in (("prometheus", ALLOWED_SECONDS), ("tenant", DENIED_SECONDS)):
        before = len(reviews.tokens)
        first = await reviews.decide(token)
        assert await reviews.decide(token) is first
        assert len(reviews.tokens) == before + 1
        reviews.now += seconds
        assert await reviews.decide(token) is first
        assert len(reviews.tokens) == before + 2


async def test_flood_of_tokens_from_one_address_delays_no_other() -> None:
    reviews = Reviews()
    assert await reviews.decide("prometheus") is ALLOWED
    flood = [await reviews.decide(f"forged-{number}") for number in range(1000)]
    assert flood.count(INVALID_TOKEN) == BURST - 1
    assert flood.count(TOO_MANY) == 1000 - flood.count(INVALID_TOKEN)
    assert len(reviews.tokens) == BURST
    reviews.now += ALLOWED_SECONDS
    for number in range(1000):
        await reviews.decide(f"forged-{number}")
    # The token of the scraper is known, although another process floods from its address.
    assert await reviews.decide("prometheus") is ALLOWED
    assert await reviews.decide("rotated", client="10.0.0.2") is INVALID_TOKEN


async def test_memory_is_bounded_and_keeps_the_scraper() -> None:
    reviews = Reviews()
    assert await reviews.decide("prometheus") is ALLOWED
    for number in range(2 * MOST_KEYS):
        await reviews.decide(f"forged-{number}", client=f"client-{number}")
    assert len(reviews.access._answers) == MOST_ANSWERS
    assert len(reviews.access._clients) == MOST_KEYS
    known = len(reviews.tokens)
    assert await reviews.decide("prometheus") is ALLOWED
    assert len(reviews.tokens) == known


async def test_slow_reviews_are_bounded_in_number_and_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    active = most = 0

    async def never(token: str) -> Answer:
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            await asyncio.Event().wait()
        finally:
            active -= 1
        return ALLOWED

    monkeypatch.setattr(access, "REVIEW_SECONDS", 0.05)
    found = AccessControl(never)
    decisions = await asyncio.gather(
        *(found.answer(f"Bearer {number}", f"client-{number}") for number in range(50))
    )
    assert set(decisions) == {UNAVAILABLE}
    assert (most, active) == (CONCURRENT_REVIEWS, 0)


def test_a_certificate_that_cannot_be_used_ends_the_operator(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        certificate.server_context(tmp_path)
    (tmp_path / "tls.crt").write_text("no certificate")
    (tmp_path / "tls.key").write_text("no key")
    with pytest.raises(ssl.SSLError):
        certificate.server_context(tmp_path)


async def test_a_renewed_certificate_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "RELOAD_SECONDS", 0.01)
    self_signed.write(tmp_path)
    folder = {"certificate_folder": str(tmp_path)}
    async with server.serving(MetricsConfig(**folder), ApiServer(), free_port()) as port:  # type: ignore[arg-type]

        async def served() -> str:
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))

        first = await served()
        assert first == (tmp_path / "tls.crt").read_text()
        (tmp_path / "tls.crt").write_text("a partial write")
        self_signed.write(tmp_path)
        async with asyncio.timeout(600):
            while await served() == first:
                pass
        assert await served() == (tmp_path / "tls.crt").read_text()
