"""``job.json``: the frozen spec of a revision. Every trainer command reads it."""

from finetune_api import API_VERSION
from finetune_api.base import CamelModel
from finetune_api.v1alpha1.data.dataset import Dataset, NamedDataset, by_path
from finetune_api.v1alpha1.data.rows import Rows
from finetune_api.v1alpha1.evaluation import EvaluationDataset
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.sources import Kind
from finetune_api.v1alpha1.training.training import Training


class ParentJob(CamelModel):
    """The job that has published the adapter in ``training.startFrom``."""

    job: str
    revision: str
    digest: str
    """Of the published adapter."""
    manifest: str | None = None
    """SHA-256 (hex) of its manifest.json; the adapter is rejected with any other."""


class JobConfig(CamelModel):
    """The fields that determine training.

    Unknown fields are an error, since they may change what is trained. If ``training.maxSteps`` is
    set, ``training.epochs`` is null.
    """

    api_version: str = API_VERSION
    namespace: str
    name: str
    revision: str
    digest: str
    """SHA-256, in hex, of the values that determine training. It identifies the published files."""
    model: Model
    dataset: Dataset
    """The training dataset. With several, the first one, whose prompt applies to all."""
    datasets: list[NamedDataset] | None = None
    """All training datasets, if there are several."""
    training: Training
    evaluation_dataset: EvaluationDataset | None = None
    """Rows to evaluate on instead of held-out rows."""
    parent: ParentJob | None = None
    """None if no job was named in ``training.startFrom``."""

    @property
    def rows_of_training(self) -> dict[Kind, NamedDataset]:
        """The training datasets by their paths in the spec."""
        return by_path(self.dataset, self.datasets)

    def rows_of(self, kind: Kind) -> Rows:
        """Return the dataset at a path in the spec."""
        if kind == "evaluation.dataset":
            assert self.evaluation_dataset is not None
            return self.evaluation_dataset
        return self.rows_of_training[kind]
