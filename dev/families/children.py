"""Calls a function in a child process that is forked from this one, with a time limit.

Children inherit the loaded libraries. This process must not compute before it forks.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from typing import Any, TypeVar

SECONDS = 180
MODULES = (
    "families.probe",
    "finetune_trainer.evaluation.scoring",
    "finetune_trainer.merging.merge",
    "finetune_trainer.preparation.prepare",
    "finetune_trainer.training.backends.trl",
    "finetune_trainer.training.train",
)
T = TypeVar("T")


class NoResult(Exception):
    """The child returned nothing; the text is the reason."""


def preload() -> None:
    """Load the libraries, with one thread for each child."""
    import torch
    from transformers.utils import logging

    for module in MODULES:
        importlib.import_module(module)
    logging.set_verbosity_error()
    torch.set_num_threads(1)


def call(function: Callable[[Any], T], argument: Any) -> T:
    """Return what the function returns. Raises NoResult."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, function, argument))
    child.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            raise NoResult(f"it takes longer than {SECONDS} seconds")
        result: T = receiver.recv()
        return result
    except EOFError:
        raise NoResult("the process ended without a result") from None
    finally:
        child.kill()
        child.join()


def _send(sender: Any, function: Callable[[Any], Any], argument: Any) -> None:
    sender.send(function(argument))
