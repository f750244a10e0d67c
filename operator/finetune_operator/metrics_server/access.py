"""Who may read ``/metrics``: the API server authenticates and authorizes each bearer token.

As in projects of kubebuilder, a TokenReview returns the user of a token, and a SubjectAccessReview
says whether the user may ``get`` the path. Answers are cached by the digest of the token. A
client address that sends new tokens too often is rejected without a review, so that no pod can use
the operator to flood the API server, or delay the reviews of other clients. All replicas serve
``/metrics``, so reviews ignore the fence of leader election.

A cache alone would save 25 lines. A client with 5 new tokens per second would then cause 3,000
reviews in ten minutes, here 600. If ten clients do that, and the scraper shares the address of one,
38 of 40 scrapes would be rejected without the order in which answers are forgotten, here none.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import OperatorError
from finetune_operator.rate_limit import RateLimit

PATH = "/metrics"
ALLOWED_SECONDS = 60.0
DENIED_SECONDS = 10.0
"""How long an answer is cached. A revoked permission is effective after the first one at most."""
MOST_ANSWERS = 256
BURST = 5
INTERVAL = 1.0
"""Rate limit of each client address, for tokens without a cached answer."""
CONCURRENT_REVIEWS = 4
REVIEW_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The HTTP status of a request without access, 200 with access, and a text that explains it."""

    status: int
    text: str = ""


ALLOWED = Answer(status=200)
NO_TOKEN = Answer(status=401, text="send the token of a ServiceAccount as a bearer token")
INVALID_TOKEN = Answer(status=401, text="the API server does not accept the bearer token")
FORBIDDEN = Answer(
    status=403,
    text=f"the user of the token has no permission for the verb get on the non-resource URL {PATH}",
)
TOO_MANY = Answer(status=429, text="too many requests with different tokens from this address")
UNAVAILABLE = Answer(status=503, text="the API server could not check the token: try again")

Review = Callable[[str], Awaitable[Answer]]


class AccessControl:
    """Decides about requests. review: returns the answer of the API server about a token."""

    def __init__(self, review: Review, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._review = review
        self._clock = clock
        self._answers: OrderedDict[bytes, tuple[Answer, float]] = OrderedDict()
        self._clients: RateLimit[str] = RateLimit(interval=INTERVAL, burst=BURST)
        self._slots = asyncio.Semaphore(CONCURRENT_REVIEWS)

    async def answer(self, authorization: str, client: str) -> Answer:
        """Return the answer. authorization: that header. client: the address of the client."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return NO_TOKEN
        key = hashlib.sha256(token.encode(errors="replace")).digest()
        cached, expires = self._answers.get(key, (None, 0.0))
        now = self._clock()
        if cached is not None and now < expires:
            return cached
        # The token of a scraper is reviewed again when its answer expires, however many other
        # tokens its node or proxy sends.
        if cached is not ALLOWED and not self._clients.take(client, now):
            return TOO_MANY
        try:
            async with asyncio.timeout(REVIEW_SECONDS), self._slots:
                answer = await self._review(token)
        except (TimeoutError, OperatorError):
            return UNAVAILABLE
        seconds = ALLOWED_SECONDS if answer is ALLOWED else DENIED_SECONDS
        self._answers[key] = (answer, self._clock() + seconds)
        self._answers.move_to_end(key)
        self._shrink()
        return answer

    def _shrink(self) -> None:
        """Forget the oldest answers, those of rejected tokens first."""
        while len(self._answers) > MOST_ANSWERS:
            rejected = (key for key, (kept, _) in self._answers.items() if kept is not ALLOWED)
            oldest = next(rejected, None) or next(iter(self._answers))
            del self._answers[oldest]


def reviewed_by(kube: Kube) -> Review:
    """Return the review of tokens by an API server. It raises OperatorError."""

    async def create(group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        path = f"/apis/{group}/v1/{kind.lower()}s"
        response = await kube.transport.call("POST", path, body=body, fenced=False)
        status: dict[str, Any] = response.get("status") or {}
        return status

    async def review(token: str) -> Answer:
        reviewed = await create("authentication.k8s.io", "TokenReview", {"token": token})
        if not reviewed.get("authenticated"):
            return INVALID_TOKEN
        user = reviewed.get("user") or {}
        subject = {
            "user": user.get("username", ""),
            "groups": user.get("groups") or [],
            "uid": user.get("uid", ""),
            "extra": user.get("extra") or {},
            "nonResourceAttributes": {"path": PATH, "verb": "get"},
        }
        access = await create("authorization.k8s.io", "SubjectAccessReview", subject)
        return ALLOWED if access.get("allowed") else FORBIDDEN

    return review
