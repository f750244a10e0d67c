"""The kinds of objects that the project defines. A new kind is one ``Resource`` in ``RESOURCES``.

The CustomResourceDefinitions, the reference page and the operator's kinds are made from them.
"""

from typing import Literal

from finetune_api import KIND, PLURAL
from finetune_api.crd.resource import CelRule, ClusterScoped, Column, NameFormat, Resource
from finetune_api.quantity import comparable
from finetune_api.v1alpha1.budgets.spec import (
    BUDGET_KIND,
    BUDGET_PLURAL,
    MAX_BUDGET_NAME,
    FineTuneBudgetSpec,
)
from finetune_api.v1alpha1.budgets.status import FineTuneBudgetStatus
from finetune_api.v1alpha1.budgets.usage import (
    USAGE_KIND,
    USAGE_PLURAL,
    FineTuneUsageSpec,
    FineTuneUsageStatus,
)
from finetune_api.v1alpha1.endpoints.spec import (
    ENDPOINT_KIND,
    ENDPOINT_PLURAL,
    FineTuneEndpointSpec,
)
from finetune_api.v1alpha1.endpoints.status import FineTuneEndpointStatus
from finetune_api.v1alpha1.profile import (
    MAX_PROFILE_NAME,
    PROFILE_KIND,
    PROFILE_PLURAL,
    FineTuneProfileSpec,
    FineTuneProfileStatus,
)
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.job import FineTuneJobStatus

NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_MAX_LENGTH = 40
NAME_RULE = (
    f"metadata.name is part of the name of a Service: use at most {NAME_MAX_LENGTH} lower-case "
    "letters, digits and '-', starting with a letter and ending with a letter or digit"
)

_NAMES_A_SERVICE = NameFormat(max_length=NAME_MAX_LENGTH, pattern=NAME_PATTERN, message=NAME_RULE)
_VOLUME_GROWS = CelRule(
    cel="!has(self.size) || !has(oldSelf.size) || "
    f"!({comparable('self.size')}) || "
    "quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
    message="a volume cannot shrink: keep storage.size or set a larger value",
)


def _condition(
    name: str, condition: str, part: Literal["status", "reason", "message"], *, wide: bool = False
) -> Column:
    """Return the column of a part of a condition."""
    path = f'.status.conditions[?(@.type=="{condition}")].{part}'
    return Column(name=name, path=path, wide=wide)


def _shorter_name(limit: int, used: str) -> NameFormat:
    """Return the limit of ``metadata.name``. used: who uses the name, for the message."""
    message = f"{used}: use at most {limit} characters in metadata.name"
    return NameFormat(max_length=limit, message=message)


FINETUNEJOB = Resource(
    kind=KIND,
    plural=PLURAL,
    short_name="ftj",
    scope="Namespaced",
    categories=("all", "finetune"),
    description="FineTuneJob fine-tunes a language model with QLoRA on one GPU, merges the adapter "
    "into the base model, and serves the result.",
    spec=FineTuneJobSpec,
    spec_description="Desired state of the job: the base model, the dataset, the training recipe "
    "and the serving settings.",
    status=FineTuneJobStatus,
    status_description="Observed state of the job. Written by the operator.",
    columns=(
        _condition("Ready", "Ready", "status"),
        _condition("State", "Ready", "reason"),
        Column(name="Serving", path=".status.serving.summary"),
        Column(name="Progress", path=".status.progress"),
        Column(name="ETA", path=".status.eta"),
        Column(name="Loss", path=".status.training.loss"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        Column(name="Warnings", path=".status.warningCount", type="integer", wide=True),
        Column(name="Cost", path=".status.cost.summary", wide=True),
        Column(name="Message", path=".status.summary", wide=True),
    ),
    name=_NAMES_A_SERVICE,
    group_rules={"storage": (_VOLUME_GROWS,)},
    scale={
        "specReplicasPath": ".spec.serving.replicas",
        "statusReplicasPath": ".status.serving.replicas",
        "labelSelectorPath": ".status.serving.selector",
    },
    page="api.md",
    title="API reference",
)
FINETUNEPROFILE = ClusterScoped(
    kind=PROFILE_KIND,
    plural=PROFILE_PLURAL,
    short_name="ftp",
    description="FineTuneProfile offers defaults and limits to FineTuneJobs under one name, with "
    "the GPU product and its price.",
    spec=FineTuneProfileSpec,
    spec_description="Defaults, limits, card and price of the jobs with this profile.",
    status=FineTuneProfileStatus,
    status_description="Whether jobs can use the profile. Written by the operator.",
    columns=(
        Column(name="Default", path=r".metadata.annotations.finetune\.dev/is-default-profile"),
        Column(name="Card", path=".spec.card"),
        Column(name="Max-Length", path=".spec.limits.maxSequenceLength", type="integer"),
        Column(name="GPU-Hour", path=".spec.price.perGpuHour"),
        Column(name="Currency", path=".spec.price.currency"),
        _condition("Valid", "Valid", "status"),
        Column(name="Description", path=".spec.description"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date", wide=True),
        _condition("Message", "Valid", "message", wide=True),
    ),
    name=_shorter_name(MAX_PROFILE_NAME, "jobs name the profile in spec.profile"),
    page="profiles.md",
    title="Profiles: API reference",
)
FINETUNEUSAGE = ClusterScoped(
    kind=USAGE_KIND,
    plural=USAGE_PLURAL,
    short_name="ftu",
    description="FineTuneUsage records the GPU time and cost of one namespace in one calendar "
    "month. Written by the operator if the chart value usage.enabled is true.",
    spec=FineTuneUsageSpec,
    spec_description="Namespace and month of the usage.",
    status=FineTuneUsageStatus,
    status_description="GPU time and cost of the month. Written by the operator.",
    columns=(
        Column(name="Namespace", path=".spec.namespace"),
        Column(name="Month", path=".spec.month"),
        Column(name="Training", path=".status.training"),
        Column(name="Serving", path=".status.serving"),
        Column(name="Cost", path=".status.cost"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date", wide=True),
    ),
    page="usage.md",
    title="Usage: API reference",
)
FINETUNEBUDGET = ClusterScoped(
    kind=BUDGET_KIND,
    plural=BUDGET_PLURAL,
    short_name="ftb",
    description="FineTuneBudget limits the GPU time and the cost of training and of endpoints "
    "in some namespaces, for each day, week or month.",
    spec=FineTuneBudgetSpec,
    spec_description="Namespaces, period and limits of the budget, and the approved jobs.",
    status=FineTuneBudgetStatus,
    status_description="Statement of the present period. Written by the operator.",
    columns=(
        Column(name="Period", path=".spec.period"),
        Column(name="Hours", path=".status.training.gpuHours.limit"),
        Column(name="Used", path=".status.training.gpuHours.used"),
        Column(name="Reserved", path=".status.training.gpuHours.reserved"),
        Column(name="Left", path=".status.training.gpuHours.remaining"),
        Column(name="Cost", path=".status.training.cost.limit"),
        Column(name="Spent", path=".status.training.cost.used"),
        Column(name="Cost-Left", path=".status.training.cost.remaining"),
        Column(name="Currency", path=".spec.currency"),
        Column(name="Waiting", path=".status.training.waiting", type="integer"),
        _condition("State", "Exhausted", "reason"),
        Column(name="Ends", path=".status.periodEnd", wide=True),
        Column(name="Running", path=".status.training.running", type="integer", wide=True),
        Column(name="Serving-Hours", path=".status.serving.gpuHours.limit", wide=True),
        Column(name="Serving-Used", path=".status.serving.gpuHours.used", wide=True),
        Column(name="Serving-GPUs", path=".status.serving.gpus", type="integer", wide=True),
        _condition("Serving", "ServingExhausted", "reason", wide=True),
        _condition("Message", "Exhausted", "message", wide=True),
    ),
    name=_shorter_name(MAX_BUDGET_NAME, "conditions of jobs name the budget"),
    page="budgets.md",
    title="Budgets: API reference",
)
FINETUNEENDPOINT = Resource(
    kind=ENDPOINT_KIND,
    plural=ENDPOINT_PLURAL,
    short_name="fte",
    scope="Namespaced",
    categories=("all", "finetune"),
    description="FineTuneEndpoint serves the adapters of several FineTuneJobs with one vLLM on one "
    "GPU. A model name answers only after its adapter was verified.",
    spec=FineTuneEndpointSpec,
    spec_description="Desired state of the endpoint: the base model, the settings of vLLM, and the "
    "number of adapters.",
    status=FineTuneEndpointStatus,
    status_description="Observed state of the endpoint. Written by the operator.",
    columns=(
        _condition("Ready", "Ready", "status"),
        _condition("State", "Ready", "reason"),
        Column(name="Models", path=".status.summary"),
        Column(name="Free", path=".status.freeSlots", type="integer"),
        Column(name="Base", path=".spec.model.source"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        _condition("Message", "Ready", "message", wide=True),
    ),
    name=_NAMES_A_SERVICE,
    rules=(
        CelRule(
            cel="(has(self.spec.base) ? self.spec.base : 'dequantized') == "
            "(has(oldSelf.spec.base) ? oldSelf.spec.base : 'dequantized')",
            message="spec.base cannot be changed: the adapters were verified against it. Create "
            "another FineTuneEndpoint, and set serving.endpointRef of the jobs to it",
        ),
    ),
    group_rules={
        "model": (
            CelRule(
                cel="self == oldSelf",
                message="spec.model cannot be changed: the adapters were trained against it. "
                "Create another FineTuneEndpoint, and set serving.endpointRef of the jobs to it",
            ),
        ),
        "storage": (_VOLUME_GROWS,),
    },
    page="endpoints.md",
    title="Endpoints: API reference",
)
RESOURCES = (FINETUNEJOB, FINETUNEPROFILE, FINETUNEUSAGE, FINETUNEBUDGET, FINETUNEENDPOINT)
