"""Paths of files and folders on the volume."""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts import reference


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The paths below ``work``, the root of the volume."""

    work: Path

    @property
    def base(self) -> Path:
        """The base model as downloaded: safetensors, configuration, tokenizer."""
        return self.work / "base"

    @property
    def start(self) -> Path:
        """The adapter that the training continues from, as downloaded."""
        return self.work / "start"

    @property
    def dataset(self) -> Path:
        """The tokenized rows (folder)."""
        return self.work / "dataset"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints: one folder each, ``step-<number>``."""
        return self.work / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter in the format of PEFT."""
        return self.work / "adapter"

    @property
    def reference(self) -> Path:
        """Log-probabilities of the tuned model on sample rows, for the verification of builds."""
        return self.work / reference.FOLDER

    @property
    def tensorboard(self) -> Path:
        """The event file of the training (folder); a copy is next to the published adapter."""
        return self.work / "tensorboard"

    @property
    def usage(self) -> Path:
        """GPU usage of the training over all attempts."""
        return self.work / "usage.json"

    @property
    def lock(self) -> Path:
        """The lock file of the process that writes to the volume; it names the holder."""
        return self.work / "lock.json"

    def merged(self, build: str) -> Path:
        """The merged model of one build."""
        return self.work / f"merged-{build}"

    def merging(self, build: str) -> Path:
        """Progress record of the unfinished merge of one build."""
        return self.work / f".merging-{build}.json"

    def scratch(self, name: str) -> Path:
        """A temporary folder on the same file system: it is renamed into place or deleted."""
        return self.work / f".writing-{name}"


def partial_path(path: Path) -> Path:
    """Return where ``path`` is written until it is complete and renamed.

    After a kill, the partial file is resumed (a download), overwritten or deleted.
    """
    return path.with_name(f".{path.name}.part")
