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
        "Name of the PersistentVolumeClaim in the job's namespace. It is mounted read-only.",
        kind="PersistentVolumeClaim",
    )
    sub_path: str | None = field(
        "Folder of the claim with the models--org--name folders.",
        None,
        edit=Edit.RETRY,
        builtin="the root of the claim",
        max_length=253,
        rules=(
            matches(
                r"^[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*(/[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*)*$",
                "write subPath as a relative path without '..', such as hub",
            ),
        ),
    )


class Storage(ApiModel):
    """The volume that holds base model, data, checkpoints, adapter and merged model."""

    size: Quantity = field(
        "Size of the volume. The volume can grow if the StorageClass allows expansion. It cannot "
        "shrink.",
        "60Gi",
        edit=Edit.RETRY,
        rules=(
            Rule(
                cel=f"!({comparable('self')}) || "
                "quantity(string(self)).isGreaterThan(quantity('0'))",
                message="storage.size must be greater than 0: set the size of the volume, such as "
                "60Gi",
                fails=lambda size: amount(size) <= 0,
            ),
        ),
    )
    storage_class_name: str | None = object_name(
        "Name of the StorageClass of the volume.",
        None,
        kind="StorageClass",
        builtin="the default StorageClass of the cluster",
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = field(
        "Access mode of the volume. More than one serving pod needs ReadWriteMany and a "
        "StorageClass that supports it. An existing volume keeps its access mode.",
        "ReadWriteOnce",
        edit=Edit.RETRY,
    )
    deletion_policy: Literal["Delete", "Retain"] = field(
        'Whether the volumes are deleted together with the job ("Delete") or kept ("Retain"). '
        "You must delete retained volumes manually. A change applies to existing volumes too.",
        "Delete",
        edit=Edit.NOTHING,
    )
    base_cache: BaseCache | None = field(
        "Shared PersistentVolumeClaim with base models. The prepare pod downloads the base model "
        "only if it is missing from this claim.",
        None,
        edit=Edit.RETRY,
        builtin="none",
    )
