"""Run a function in a daemon thread, once or repeatedly; a stop does not wait for it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

R = TypeVar("R")


def start(function: Callable[..., R], *arguments: object) -> Future[R]:
    """Call ``function`` in a new daemon thread and return a future with its result or exception.

    A ``ThreadPoolExecutor`` does not do: the interpreter joins its threads at exit, however long
    they run.
    """
    outcome: Future[R] = Future()

    def call() -> None:
        try:
            outcome.set_result(function(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, name=function.__name__, daemon=True).start()
    return outcome


@contextmanager
def repeated(function: Callable[[], object], *, seconds: float) -> Iterator[None]:
    """Call ``function`` at an interval during the block, and once more at its end."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            function()

    thread = threading.Thread(target=repeat, name=function.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        function()
