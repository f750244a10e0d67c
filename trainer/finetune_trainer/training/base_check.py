"""Verify base model and dataset before the training, and the weights of the base during it.

The weights are hashed in the background, while the training loads and uses them: both share one
read from disk, and the GPU does not wait. Nothing is published before this has ended: a base that
changed after the ``prepare`` stage must leave neither a checkpoint nor an adapter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.stage_request import TrainStageRequest
from finetune_trainer.checkpointing import published
from finetune_trainer.checkpointing.manifest import Manifest, ManifestError, check_digest
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.runtime import daemon_thread
from finetune_trainer.volume_layout import Layout

_REMEDY = ": to prepare the base model and the dataset again, set spec.rerun to a new value"


def prepared(
    layout: Layout, job: JobConfig, request: TrainStageRequest
) -> tuple[Manifest, Manifest]:
    """Return the manifests of base and dataset, without hashing the base. Raise ResumeRefused."""
    try:
        return published.verify_prepared(
            layout,
            job,
            hashes=False,
            base=request.base_manifest,
            dataset=request.dataset_manifest,
        )
    except ManifestError as problem:
        raise ResumeRefused(f"{problem}{_REMEDY}") from problem


def start(layout: Layout, base: Manifest) -> Callable[[], None]:
    """Start the check; return a function that waits for it and raises ResumeRefused if it fails."""
    return daemon_thread.start(_check, layout, base).result


@contextmanager
def required(check: Callable[[], None]) -> Iterator[None]:
    """Wait for the check at the end of a block, and if the block fails: the base may be the cause.

    A stop, which is not an Exception, does not wait.
    """
    try:
        yield
    except Exception:
        check()
        raise
    check()


def _check(layout: Layout, base: Manifest) -> None:
    try:
        # The small files first: a changed configuration is found before the model is loaded.
        for entry in sorted(base.files, key=lambda entry: entry.size):
            check_digest(layout.base, entry)
    except (ManifestError, OSError) as problem:
        raise ResumeRefused(f"{problem}{_REMEDY}") from problem
