"""``spec`` of a FineTuneJob: what a user may ask for.

Each group of fields has a module of its own; here they come together, with the rules that tie one
group to another. Field names are Kubernetes-style camelCase of the words that Hugging Face, PEFT,
TRL and vLLM use. The default of each field is its built-in value; ``None`` means that the value is
worked out later (by the trainer from the data and the card, or by the cluster), as the description
says.
"""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, Rule, field
from finetune_api.v1alpha1.dataset import Dataset
from finetune_api.v1alpha1.evaluation import Evaluation
from finetune_api.v1alpha1.merge import Merge
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.placement import Placement, PodMetadata
from finetune_api.v1alpha1.references import named
from finetune_api.v1alpha1.resources import Resources
from finetune_api.v1alpha1.rows import Rows
from finetune_api.v1alpha1.run_policy import RunPolicy
from finetune_api.v1alpha1.serving import Serving
from finetune_api.v1alpha1.storage import Storage
from finetune_api.v1alpha1.training import Training


class Access(ApiModel):
    """Who a job is towards the cloud."""

    service_account_name: str | None = named(
        "ServiceAccount of the stage pod alone, for a cloud identity that reads s3:// sources. The "
        "pod gets no token for the API server.",
        None,
        what="a ServiceAccount",
        builtin="none",
    )


NAMES_ROWS = "(has(self.evaluation) && has(self.evaluation.dataset))"
HOLDS_OUT_SOME = (
    "!has(self.dataset.validationFraction) || self.dataset.validationFraction != 0.0 "
    f"|| {NAMES_ROWS}"
)


def _evaluates_nothing(spec: "FineTuneJobSpec") -> bool:
    return spec.dataset.validation_fraction == 0 and spec.evaluation.dataset is None


def _or_else(group: str, name: str, builtin: str) -> str:
    return f"(has({group}.{name}) ? {group}.{name} : '{builtin}')"


def _place(rows: Rows) -> tuple[str, str, str]:
    return rows.source, rows.revision or "main", rows.split


class FineTuneJobSpec(ApiModel):
    """What to tune, on what, how, and what to do with the result."""

    model: Model = field("The base model.", edit=Edit.RETRAIN)
    dataset: Dataset = field("The rows to train on.", edit=Edit.RETRAIN)
    training: Training = field(
        "The recipe: QLoRA, by default as it suits an 8-billion-parameter model on one 24 GB card.",
        Training(),
        edit=Edit.RETRAIN,
    )
    merge: Merge = field("The merged 16-bit model.", Merge(), edit=Edit.REMERGE)
    evaluation: Evaluation = field(
        "The gate between a trained model and the endpoint, and its own rows.",
        Evaluation(),
        edit=Edit.NOTHING,
    )
    serving: Serving = field("The endpoint.", Serving(), edit=Edit.ROLL)
    storage: Storage = field("The volume.", Storage(), edit=Edit.RETRY)
    access: Access = field("Who the job is towards the cloud.", Access(), edit=Edit.RETRY)
    resources: Resources = field("CPU and memory of each stage.", Resources(), edit=Edit.RETRY)
    placement: Placement = field("Where the pods may run.", Placement(), edit=Edit.RETRY)
    queue_name: str | None = named(
        "Kueue LocalQueue for the train Job, which is the only one that asks for GPU quota. With "
        "a queue the administrator's node selector is left to the queue's flavors.",
        None,
        what="a LocalQueue",
        longest=63,
        builtin="none",
    )
    workload_priority_class_name: str | None = named(
        "Kueue WorkloadPriorityClass of the train Job: its place in the queue and who is preempted "
        "for it. The pods keep the priority of priorityClassName.",
        None,
        what="a WorkloadPriorityClass",
        longest=63,
        builtin="none",
    )
    priority_class_name: str | None = named(
        "PriorityClass of the job's pods.",
        None,
        what="a PriorityClass",
        builtin="the cluster's default priority",
    )
    pod_metadata: PodMetadata = field(
        "What is written on the job's pods.", PodMetadata(), edit=Edit.ROLL
    )
    suspend: bool = field(
        "Pause the job: the stage under way is stopped and its checkpoint kept. Setting it back "
        "goes on from there. What serves goes on serving.",
        False,
        edit=Edit.NOTHING,
    )
    run_policy: RunPolicy = field("Retries, budget and deadlines.", RunPolicy(), edit=Edit.RETRY)
    revision_history_limit: int = field(
        "How many revisions that neither serve nor are asked for are kept with their volumes, so "
        "that an edit back to one of them trains nothing again. Those that were trained to the end "
        "are kept before others, and newer ones before older ones.",
        1,
        edit=Edit.NOTHING,
        ge=0,
        le=20,
    )
    rerun: str | None = field(
        "Any new value trains again with the same recipe, for instance the date.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=63,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.training) || !has(self.training.trainOn) "
            "|| self.training.trainOn != 'responses' || self.dataset.format != 'text'",
            message="rows of format text have no response: set training.trainOn: all, "
            "or leave it out",
            fails=lambda s: s.training.train_on == "responses" and s.dataset.format == "text",
        ),
        Rule(
            cel="!has(self.merge) || !has(self.merge.enabled) || self.merge.enabled "
            "|| (has(self.serving) && ((has(self.serving.enabled) && !self.serving.enabled) "
            "|| (has(self.serving.mode) && self.serving.mode == 'adapter')))",
            message="serving needs the merged model: set merge.enabled: true, "
            "serving.mode: adapter, or serving.enabled: false as well",
            fails=lambda s: (
                not s.merge.enabled and s.serving.enabled and s.serving.mode == "merged"
            ),
        ),
        Rule(
            cel="!has(self.serving) || !has(self.serving.mode) || self.serving.mode != 'adapter' "
            "|| !has(self.training) || !has(self.training.lora) "
            "|| !has(self.training.lora.useDora) || !self.training.lora.useDora",
            message="vLLM cannot load a DoRA adapter: set serving.mode: merged, "
            "or training.lora.useDora: false",
            fails=lambda s: s.serving.mode == "adapter" and s.training.lora.use_dora,
        ),
        Rule(
            cel="!has(self.serving) || !has(self.serving.mode) || self.serving.mode != 'adapter' "
            "|| !has(self.training) || !has(self.training.lora) "
            "|| !has(self.training.lora.modulesToSave)",
            message="vLLM cannot load modules that were trained in full beside an adapter: "
            "set serving.mode: merged, or remove training.lora.modulesToSave",
            fails=lambda s: (
                s.serving.mode == "adapter" and s.training.lora.modules_to_save is not None
            ),
        ),
        Rule(
            cel="!has(self.serving) || !has(self.serving.replicas) || self.serving.replicas <= 1 "
            "|| (has(self.storage) && has(self.storage.accessMode) "
            "&& self.storage.accessMode == 'ReadWriteMany')",
            message="more than one replica needs a volume that several nodes can use: "
            "set storage.accessMode: ReadWriteMany, or serving.replicas: 1",
            fails=lambda s: s.serving.replicas > 1 and s.storage.access_mode != "ReadWriteMany",
        ),
        Rule(
            cel=f"{HOLDS_OUT_SOME} || !has(self.training) || !has(self.training.advanced) "
            "|| !has(self.training.advanced.evalSteps)",
            message="evalSteps evaluates held-out rows, and validationFraction: 0 holds out none: "
            "remove one of them, or name an evaluation.dataset",
            fails=lambda s: _evaluates_nothing(s) and s.training.advanced.eval_steps is not None,
        ),
        Rule(
            cel=f"{HOLDS_OUT_SOME} || !has(self.training) || !has(self.training.advanced) "
            "|| !has(self.training.advanced.earlyStoppingPatience)",
            message="earlyStoppingPatience needs held-out rows, and validationFraction: 0 holds "
            "out none: remove one of them, or name an evaluation.dataset",
            fails=lambda s: (
                _evaluates_nothing(s) and s.training.advanced.early_stopping_patience is not None
            ),
        ),
        Rule(
            cel=f"!{NAMES_ROWS} || !has(self.dataset.validationFraction) "
            "|| self.dataset.validationFraction == 0.0",
            message="evaluation.dataset takes the place of rows held out by "
            "dataset.validationFraction: remove one of them",
            fails=lambda s: (
                s.evaluation.dataset is not None and bool(s.dataset.validation_fraction)
            ),
        ),
        Rule(
            cel=f"!{NAMES_ROWS} "
            "|| (self.evaluation.dataset.format == 'text') == (self.dataset.format == 'text')",
            message="evaluation.dataset is rendered as the dataset is, and rows of format text are "
            "not rendered at all: set format: text for both, or for none",
            fails=lambda s: (
                s.evaluation.dataset is not None
                and (s.evaluation.dataset.format == "text") != (s.dataset.format == "text")
            ),
        ),
        Rule(
            cel=f"!{NAMES_ROWS} || self.evaluation.dataset.source != self.dataset.source || "
            + " || ".join(
                f"{_or_else('self.evaluation.dataset', name, builtin)} "
                f"!= {_or_else('self.dataset', name, builtin)}"
                for name, builtin in (("revision", "main"), ("split", "train"))
            ),
            message="evaluation.dataset names the very rows that are trained on: set its split or "
            "source to others, or remove it to have rows held out",
            fails=lambda s: (
                s.evaluation.dataset is not None
                and _place(s.evaluation.dataset) == _place(s.dataset)
            ),
        ),
    )
