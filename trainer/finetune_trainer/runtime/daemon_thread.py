"""Work in a thread that nothing waits for where the process is told to stop."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

R = TypeVar("R")


def start(function: Callable[..., R], *arguments: object) -> Future[R]:
    """Call a function in a thread of its own; the future has what it returns or raises.

    An executor's threads are waited for when the process ends, whatever they are doing.
    """
    outcome: Future[R] = Future()

    def call() -> None:
        try:
            outcome.set_result(function(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, name=function.__name__, daemon=True).start()
    return outcome
