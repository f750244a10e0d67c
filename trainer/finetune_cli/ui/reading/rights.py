"""What the user may not read: an error with the right that is missing, or a part of a page without.

The message of the API server names the right, too, but in a sentence that differs between versions.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetune_api import GROUP
from finetune_cli.cluster.api import Forbidden, Unauthenticated
from finetune_cli.errors import CommandFailed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Right:
    """A verb on a resource, in a namespace or (None) in all of them."""

    verb: str
    resource: str
    """With its API group, as ``kubectl auth can-i`` takes it."""
    namespace: str | None

    @property
    def text(self) -> str:
        """The right in a sentence."""
        where = f"in namespace {self.namespace}" if self.namespace else "in all namespaces"
        return f"{self.verb} {self.resource} {where}"

    @property
    def command(self) -> str:
        """The command that asks whether the user has the right."""
        where = f"-n {self.namespace}" if self.namespace else "--all-namespaces"
        return f"kubectl auth can-i {self.verb} {self.resource} {where}"


class Denied(Forbidden):
    """The user does not have a right."""

    def __init__(self, right: Right, message: str) -> None:
        """``message``: of the API server."""
        super().__init__(message)
        self.right = right


@dataclass(frozen=True, kw_only=True)
class Part(Generic[T]):
    """A part of a page: what was read, or why it could not be read."""

    value: T | None = None
    problem: str = ""


def own(plural: str) -> str:
    """Return a resource of this API with its group."""
    return f"{plural}.{GROUP}"


@contextmanager
def needs(verb: str, resource: str, namespace: str | None) -> Iterator[None]:
    """Name the right that the block needs. Raises Denied without it."""
    try:
        yield
    except Denied:
        raise
    except Forbidden as error:
        right = Right(verb=verb, resource=resource, namespace=namespace)
        raise Denied(right, str(error)) from None


def part(read: Callable[[], T]) -> Part[T]:
    """Return a part of a page that is not worth an error page."""
    try:
        return Part(value=read())
    except Unauthenticated:
        raise
    except Denied as error:
        return Part(problem=f"You may not {error.right.text}. {error}")
    except CommandFailed as error:
        return Part(problem=str(error))


def at_once(*reads: Callable[[], Any]) -> list[Any]:
    """Return the results of several reads that do not depend on each other."""
    with ThreadPoolExecutor(len(reads)) as pool:
        return [future.result() for future in [pool.submit(read) for read in reads]]
