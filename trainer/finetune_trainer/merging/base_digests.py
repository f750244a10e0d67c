"""Check the digests of the base's shards while the merge reads them.

Checking them before would read the whole base twice.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from finetune_trainer.checkpointing import manifest
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.merging.request import MergeRequest
from finetune_trainer.runtime import daemon_thread


@contextmanager
def checked_while_read(request: MergeRequest, name: str) -> Iterator[None]:
    """Check the digest of a shard in the background while the block reads it.

    Both share one read from disk: hashing runs ahead in large strides, and the mapped file finds
    its pages in the page cache. A stop, which is not an Exception, does not wait for the digest.
    """
    checked = daemon_thread.start(check, request, [name])
    with blamed_on_base(checked.result):
        yield
    checked.result()


@contextmanager
def blamed_on_base(check_base: Callable[[], None]) -> Iterator[None]:
    """If the block fails, run ``check_base`` first: a damaged base may be the cause."""
    try:
        yield
    except Exception:
        check_base()
        raise


def check(request: MergeRequest, names: Collection[str]) -> None:
    """Raise ResumeRefused if one of these files of the base has changed."""
    try:
        for entry in request.base_manifest.files:
            if entry.name in names:
                manifest.check_digest(request.layout.base, entry)
    except manifest.ManifestError as problem:
        raise ResumeRefused(
            f"{problem}: to prepare and train again, set spec.rerun to a new value"
        ) from problem
