"""``spec.resources`` of a FineTuneJob: CPU and memory of each stage."""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, Rule, field
from finetune_api.quantity import Quantity, amount, comparable


def _gpu_named(values: dict[str, str] | None) -> bool:
    return any(key.endswith("/gpu") for key in values or {})


def _above_limit(name: str) -> Rule:
    request, limit = f"self.requests['{name}']", f"self.limits['{name}']"
    missing = " || ".join(
        f"!has(self.{part}) || !('{name}' in self.{part})" for part in ("requests", "limits")
    )
    return Rule(
        cel=f"{missing} || !({comparable(request, limit)}) || "
        f"quantity(string({request})).compareTo(quantity(string({limit}))) <= 0",
        message=f"the {name} request is above its limit: lower the request or raise the limit",
        fails=lambda r: (
            name in (r.requests or {})
            and name in (r.limits or {})
            and amount(r.requests[name]) > amount(r.limits[name])
        ),
    )


class ResourceRequirements(ApiModel):
    """Requests and limits of one stage's container, replaced as a whole where they are written."""

    atomic: ClassVar[bool] = True
    requests: dict[str, Quantity] | None = field(
        "What the scheduler sets aside, such as {cpu: '4', memory: 16Gi}. The GPU is not named "
        "here: the operator asks for one where a stage needs it.",
        None,
        edit=Edit.RETRY,
        builtin="the stage's own",
        max_length=8,
    )
    limits: dict[str, Quantity] | None = field(
        "What the container may use at most.",
        None,
        edit=Edit.RETRY,
        builtin="the stage's own",
        max_length=8,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.requests) || !self.requests.exists(k, k.endsWith('/gpu'))",
            message="the operator asks for the GPU itself, one for each train and serving pod: "
            "remove it from requests",
            fails=lambda r: _gpu_named(r.requests),
        ),
        Rule(
            cel="!has(self.limits) || !self.limits.exists(k, k.endsWith('/gpu'))",
            message="the operator asks for the GPU itself, one for each train and serving pod: "
            "remove it from limits",
            fails=lambda r: _gpu_named(r.limits),
        ),
        _above_limit("cpu"),
        _above_limit("memory"),
    )


class Resources(ApiModel):
    """CPU, memory and other resources of each stage. The GPU is the operator's own business."""

    prepare: ResourceRequirements = field(
        "The prepare pod: download, validation and tokenisation, on a CPU.",
        ResourceRequirements(requests={"cpu": "1", "memory": "4Gi"}, limits={"memory": "8Gi"}),
        edit=Edit.RETRY,
    )
    train: ResourceRequirements = field(
        "The train pod, beside its one GPU.",
        ResourceRequirements(requests={"cpu": "2", "memory": "12Gi"}, limits={"memory": "14Gi"}),
        edit=Edit.RETRY,
    )
    merge: ResourceRequirements = field(
        "The merge pod, on a CPU.",
        ResourceRequirements(requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": "4Gi"}),
        edit=Edit.RETRY,
    )
    serve: ResourceRequirements = field(
        "Each serving pod, beside its one GPU.",
        ResourceRequirements(requests={"cpu": "2", "memory": "12Gi"}, limits={"memory": "14Gi"}),
        edit=Edit.ROLL,
    )
