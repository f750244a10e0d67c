"""``spec.storage`` of a FineTuneJob: the volume of a revision, and a cache of bases beside it."""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, Rule, field, matches
from finetune_api.quantity import Quantity, amount, comparable
from finetune_api.v1alpha1.references import named


class BaseCache(ApiModel):
    """A folder of models, as the hub's own client keeps it, on a claim that jobs share."""

    atomic: ClassVar[bool] = True
    claim_name: str = named(
        "PersistentVolumeClaim in the job's namespace. It is mounted read-only.",
        what="a claim's name",
    )
    sub_path: str | None = field(
        "Folder in the claim that holds models--org--name folders.",
        None,
        edit=Edit.RETRY,
        builtin="the claim's root",
        max_length=253,
        rules=(
            matches(
                r"^[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*(/[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*)*$",
                "subPath is a relative path without '..', such as hub",
            ),
        ),
    )


class Storage(ApiModel):
    """The volume of a revision: base, data, checkpoints, adapter and merged model."""

    size: Quantity = field(
        "Size of the volume. It may grow, where the storage class allows, but not shrink.",
        "60Gi",
        edit=Edit.RETRY,
        rules=(
            Rule(
                cel=f"!({comparable('self')}) || "
                "quantity(string(self)).isGreaterThan(quantity('0'))",
                message="a volume of size 0 holds nothing: write its size, such as 60Gi",
                fails=lambda size: amount(size) <= 0,
            ),
        ),
    )
    storage_class_name: str | None = named(
        "Storage class of the volume.",
        None,
        what="a storage class",
        builtin="the cluster's default class",
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = field(
        "How many nodes may use the volume at once. More than one serving replica needs "
        "ReadWriteMany, from a storage class that offers it. A volume that is there keeps its own.",
        "ReadWriteOnce",
        edit=Edit.RETRY,
    )
    deletion_policy: Literal["Delete", "Retain"] = field(
        "What becomes of the volumes when the job is deleted: Delete, or Retain, which keeps them "
        "for somebody to delete by hand. It takes effect on the volumes that are there at once.",
        "Delete",
        edit=Edit.NOTHING,
    )
    base_cache: BaseCache | None = field(
        "Shared claim in which the stage pod looks for the base before it downloads it.",
        None,
        edit=Edit.RETRY,
        builtin="none",
    )
