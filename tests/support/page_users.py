"""Several users of one page: an API server of the examples that knows tokens and namespaces."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tests.support import example_page
from tests.support.example_page import Objects

from clidocs import example_cluster
from finetune_cli.cluster.api import Cluster
from finetune_cli.ui import pod
from finetune_cli.ui.access.users import REVIEWS


@dataclass(frozen=True, kw_only=True)
class Directory:
    """Users by their tokens, and what they have asked."""

    users: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    """The namespace in which a user may read; users without one may read all of them."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Token and path of each request."""

    def may(self, user: str, path: str) -> bool:
        """Report whether a user may read a path."""
        only = self.namespaces.get(user)
        named = re.search("/namespaces/([^/?]+)", path)
        return only is None or (named is not None and named[1] == only)

    def tokens_of(self, part: str) -> set[str]:
        """Return the tokens of the requests whose path contains a text."""
        return {token for token, path in self.requests if part in path}


@contextmanager
def serving(objects: Objects, directory: Directory) -> Iterator[Callable[[str], Cluster]]:
    """Run the API server; yield the function that connects a token, as in a pod."""

    def guarded(original: Callable[..., None]) -> Callable[..., None]:
        def handle(handler: example_cluster._Handler) -> None:
            token = (handler.headers["Authorization"] or "").removeprefix("Bearer ")
            assert not [name for name in handler.headers if name.lower().startswith("impersonate")]
            directory.requests.append((token, handler.path))
            user = directory.users.get(token)
            if user is None or handler.path == REVIEWS:
                handler.rfile.read(int(handler.headers["Content-Length"] or 0))
                review = {"status": {"userInfo": {"username": user}}}
                status, body = (201, review) if user else (401, {"message": "Unauthorized"})
                handler._answer(status, json.dumps(body).encode())
            elif directory.may(user, handler.path):
                original(handler)
            else:
                handler.rfile.read(int(handler.headers["Content-Length"] or 0))
                handler._answer(403, json.dumps({"message": f"{user} may not"}).encode())

        return handle

    kind = example_cluster._Handler
    with (
        mock.patch.object(kind, "do_GET", guarded(kind.do_GET)),
        mock.patch.object(kind, "do_POST", guarded(kind.do_POST)),
        example_page.cluster_of(objects) as cluster,
    ):
        yield pod.connection(cluster.api.configuration.host, Path("unused"))


def expiring(name: str, seconds: float) -> str:
    """Return a token that says for how long it is valid."""
    claims = json.dumps({"sub": name, "exp": time.time() + seconds}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2lnbmF0dXJl"
