"""``job.json``: the frozen resolution of a revision, which every trainer command reads."""

from finetune_api import API_VERSION
from finetune_api.base import CamelModel
from finetune_api.v1alpha1.dataset import Dataset
from finetune_api.v1alpha1.evaluation import EvaluationDataset
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.training import Training


class JobConfig(CamelModel):
    """What a revision trains.

    Fields that this version does not know are refused: they change what is trained.
    Where ``training.maxSteps`` is set, ``training.epochs`` is null.
    """

    api_version: str = API_VERSION
    namespace: str
    name: str
    uid: str
    revision: str
    model: Model
    dataset: Dataset
    training: Training
    evaluation_dataset: EvaluationDataset | None = None
    """Rows to evaluate on in place of held-out ones."""
