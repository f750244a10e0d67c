"""``job.json``: the frozen resolution of a revision, which every trainer command reads."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from finetune_api import API_VERSION
from finetune_api.recipe import Training
from finetune_api.spec import Dataset, Model


class JobConfig(BaseModel):
    """What a revision trains.

    Fields that this version does not know are refused: they change what is trained.
    Where ``training.maxSteps`` is set, ``training.epochs`` is null.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )
    api_version: str = API_VERSION
    namespace: str
    name: str
    uid: str
    revision: str
    model: Model
    dataset: Dataset
    training: Training
