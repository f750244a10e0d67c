"""``spec.storage`` of a FineTuneJob: the volume of a revision, and a shared cache of models."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.quantity import Quantity, amount, comparable
from finetune_api.rules import Rule, matches
from finetune_api.v1alpha1.references import object_name


class BaseCache(ApiModel):
    """A PersistentVolumeClaim, shared by jobs, with models in the layout of the hub's cache."""

    atomic: ClassVar[bool] = True
    claim_name: str = object_name(
        "Name of the PersistentVolumeClaim in the job's namespace. The prepare pod mounts the "
        "claim read-only.",
        kind="PersistentVolumeClaim",
    )
    sub_path: str | None = field(
        "Path of a folder in the claim. In this folder, each base model has its own folder "
        "models--org--name, as in the Hugging Face cache.",
        None,
        edit=Edit.RETRY,
        builtin="the root folder of the claim",
        max_length=253,
        rules=(
            matches(
                r"^[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*(/[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*)*$",
                "write subPath as a relative path without '..', such as hub",
            ),
        ),
    )


POSITIVE_SIZE = Rule(
    cel=f"!({comparable('self')}) || quantity(string(self)).isGreaterThan(quantity('0'))",
    message="storage.size must be greater than 0: set the size of the volume, such as 60Gi",
    fails=lambda size: amount(size) <= 0,
)


class Storage(ApiModel):
    """The volume that holds base model, data, checkpoints, adapter and merged model."""

    size: Quantity = field(
        "Size of the volume. If the StorageClass allows expansion, you can increase the size. You "
        "cannot decrease the size.",
        "60Gi",
        edit=Edit.RETRY,
        rules=(POSITIVE_SIZE,),
    )
    storage_class_name: str | None = object_name(
        "Name of the StorageClass of the volume.",
        None,
        kind="StorageClass",
        builtin="the default StorageClass of the cluster",
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = field(
        "Access mode of the volume. To run more than one serving pod, set ReadWriteMany and use a "
        "StorageClass that supports this access mode. A change does not affect existing volumes.",
        "ReadWriteOnce",
        edit=Edit.RETRY,
    )
    deletion_policy: Literal["Delete", "Retain"] = field(
        'What happens to the volumes when the FineTuneJob is deleted. "Delete": the volumes are '
        'deleted too. "Retain": the volumes are kept, and you must delete them yourself. A change '
        "also applies to existing volumes.",
        "Delete",
        edit=Edit.NOTHING,
    )
    base_cache: BaseCache | None = field(
        "PersistentVolumeClaim that contains base models. Several jobs can use the same claim. "
        "The prepare pod downloads the base model only if the claim does not contain this "
        "model.",
        None,
        edit=Edit.RETRY,
        builtin="none",
    )
