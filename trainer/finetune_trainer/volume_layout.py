"""Where everything lies on the volume."""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts import reference


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders below the volume's root."""

    work: Path

    @property
    def base(self) -> Path:
        """The base model as the hub has it: safetensors, configuration, tokenizer."""
        return self.work / "base"

    @property
    def dataset(self) -> Path:
        """The tokenized rows."""
        return self.work / "dataset"

    @property
    def checkpoints(self) -> Path:
        """One folder for each checkpoint, ``step-<number>``."""
        return self.work / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format."""
        return self.work / "adapter"

    @property
    def reference(self) -> Path:
        """What the tuned model says about some rows, for those who serve it."""
        return self.work / reference.FOLDER

    @property
    def usage(self) -> Path:
        """What the training has cost so far, over all attempts."""
        return self.work / "usage.json"

    @property
    def lock(self) -> Path:
        """What the one process that may write holds; it names the holder."""
        return self.work / "lock.json"

    def merged(self, build: str) -> Path:
        """The merged model of one build."""
        return self.work / f"merged-{build}"

    def merging(self, build: str) -> Path:
        """What says, until it is published, how far the merge of one build has come."""
        return self.work / f".merging-{build}.json"

    def scratch(self, name: str) -> Path:
        """A folder on the same file system that is renamed into place, or thrown away."""
        return self.work / f".writing-{name}"


def partial_path(path: Path) -> Path:
    """Where a file is written until it is whole, and then renamed to ``path``.

    What a kill leaves there is gone on with (a download), written anew, or thrown away.
    """
    return path.with_name(f".{path.name}.part")
