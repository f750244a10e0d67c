"""``job.json``: the frozen spec of a revision. Every trainer command reads it."""

from finetune_api import API_VERSION
from finetune_api.base import CamelModel
from finetune_api.v1alpha1.dataset import Dataset
from finetune_api.v1alpha1.evaluation import EvaluationDataset
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.training import Training


class JobConfig(CamelModel):
    """The fields that determine training.

    Unknown fields are an error, since they may change what is trained. If ``training.maxSteps`` is
    set, ``training.epochs`` is null.
    """

    api_version: str = API_VERSION
    namespace: str
    name: str
    uid: str
    revision: str
    digest: str
    """SHA-256, in hex, of the values that determine training. It identifies the published files."""
    model: Model
    dataset: Dataset
    training: Training
    evaluation_dataset: EvaluationDataset | None = None
    """Rows to evaluate on instead of held-out rows."""
