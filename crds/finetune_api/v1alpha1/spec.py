"""``spec`` of a FineTuneJob: the desired state.

Each group of fields has a module of its own. This module combines them and adds the rules that tie
one group to another. Field names are the camelCase form of the names used by Hugging Face, PEFT,
TRL and vLLM. The default of a field is its built-in value; ``None`` means that the trainer or the
cluster determines the value later, as the description says.
"""

from typing import ClassVar

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import (
    Rule,
    at_most_one_sets,
    equals,
    excludes,
    is_set,
    requires,
    unique_by,
)
from finetune_api.v1alpha1.access import Access
from finetune_api.v1alpha1.data.dataset import (
    COMMON_FIELDS,
    OWN_VARIABLES,
    Dataset,
    NamedDataset,
    by_path,
)
from finetune_api.v1alpha1.evaluation import HELD_OUT_RULES, Evaluation
from finetune_api.v1alpha1.merge import Merge
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.placement import Placement, PodMetadata
from finetune_api.v1alpha1.profile import MAX_PROFILE_NAME
from finetune_api.v1alpha1.publishing import targets
from finetune_api.v1alpha1.publishing.shared_endpoint import NAME as ENDPOINT
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.publishing.tracking import NAME, Tracking
from finetune_api.v1alpha1.references import object_name
from finetune_api.v1alpha1.resources import Resources
from finetune_api.v1alpha1.run_policy import RunPolicy
from finetune_api.v1alpha1.serving import SHARED, Serving
from finetune_api.v1alpha1.sources import Kind, listed
from finetune_api.v1alpha1.storage import Storage
from finetune_api.v1alpha1.training.training import Training

_SERVES_ADAPTER = equals("serving.mode", "adapter")
_SERVES_SHARED = equals("serving.mode", SHARED)
_SERVES_NOTHING = equals("serving.enabled", False)
_MERGES_NOTHING = equals("merge.enabled", False) | (
    (_SERVES_ADAPTER | _SERVES_SHARED) & ~_SERVES_NOTHING
)


class FineTuneJobSpec(ApiModel):
    """Desired state of the job."""

    model: Model = field("The base model.", edit=Edit.RETRAIN)
    dataset: Dataset | None = field(
        "The training dataset. Mutually exclusive with datasets.",
        None,
        edit=Edit.RETRAIN,
        unset="the field datasets must be set",
    )
    datasets: list[NamedDataset] | None = field(
        "Several training datasets, identified by their names. The fields validationFraction, "
        "promptTemplate, promptFormat, chatTemplate and duplicates apply to all datasets. The "
        "trainer selects the held-out rows from the rows of all datasets. Mutually exclusive with "
        "dataset.",
        None,
        edit=Edit.RETRAIN,
        unset="the field dataset must be set",
        key="name",
        min_length=1,
        max_length=16,
        rules=(
            unique_by("name", "two datasets have the same name: change one of the names"),
            OWN_VARIABLES,
            at_most_one_sets(
                COMMON_FIELDS,
                f"{listed(COMMON_FIELDS)} apply to all datasets: set each of these fields in at "
                "most one dataset",
            ),
        ),
    )
    training: Training = field(
        "Training settings (the QLoRA recipe). The defaults suit an 8-billion-parameter model "
        "on a GPU with 24 GB of memory.",
        Training(),
        edit=Edit.RETRAIN,
    )
    merge: Merge = field(
        "Settings of the merge stage. This stage adds the LoRA adapter to the base model.",
        Merge(),
        edit=Edit.REMERGE,
    )
    evaluation: Evaluation = field(
        "Settings of the evaluation. The evaluation compares the tuned model with its base model.",
        Evaluation(),
        edit=Edit.NOTHING,
    )
    serving: Serving = field(
        "The OpenAI-compatible endpoint of the tuned model.", Serving(), edit=Edit.ROLL
    )
    publish: list[PublishTarget] | None = field(
        "Targets outside of the cluster to which the adapter or the merged model is published, "
        "identified by their names. Publishing does not affect the endpoint.",
        None,
        edit=Edit.PUBLISH,
        unset="the model stays on the volume of its revision",
        key="name",
        max_length=targets.MAX_TARGETS,
        rules=(targets.UNIQUE_NAMES,),
    )
    tracking: Tracking | None = field(
        "Server that gets the parameters, the metrics and the links to the published models of the "
        "job. Tracking does not affect the endpoint.",
        None,
        edit=Edit.PUBLISH,
        unset="no server gets them",
    )
    storage: Storage = field(
        "The volume that holds the base model, data, checkpoints, adapter and merged model. "
        "Each revision of the job has its own volume.",
        Storage(),
        edit=Edit.RETRY,
    )
    access: Access = field(
        "Identity with which the job accesses cloud services.", Access(), edit=Edit.RETRY
    )
    resources: Resources = field(
        "CPU and memory for the pods of each stage.", Resources(), edit=Edit.RETRY
    )
    placement: Placement = field(
        "Scheduling constraints for all pods of the job.", Placement(), edit=Edit.RETRY
    )
    profile: str | None = object_name(
        "Name of the FineTuneProfile whose defaults, card and limits apply to the job.",
        None,
        kind="FineTuneProfile",
        max_length=MAX_PROFILE_NAME,
        builtin="the profile with the annotation finetune.dev/is-default-profile, if there is one",
        edit=Edit.PROFILE,
    )
    queue_name: str | None = object_name(
        "Name of the Kueue LocalQueue for the train Job. Only the train Job uses the GPU quota of "
        "the queue. If a queue is set, the ResourceFlavors of the queue select the nodes, and the "
        "chart value gpu.products does not apply.",
        None,
        kind="LocalQueue",
        max_length=63,
        builtin="none",
    )
    workload_priority_class_name: str | None = object_name(
        "Name of the Kueue WorkloadPriorityClass of the train Job. Kueue uses this class to "
        "order the workloads in a queue and to select workloads for preemption. The class does "
        "not set the priority of pods; use priorityClassName for that purpose.",
        None,
        kind="WorkloadPriorityClass",
        max_length=63,
        builtin="none",
    )
    priority_class_name: str | None = object_name(
        "Name of the PriorityClass of all pods of the job.",
        None,
        kind="PriorityClass",
        builtin="the default PriorityClass of the cluster",
    )
    pod_metadata: PodMetadata = field(
        "Metadata that the operator adds to the pods and other objects of the job.",
        PodMetadata(),
        edit=Edit.ROLL,
    )
    suspend: bool = field(
        "Suspend the job: the operator stops the running stage. The train stage resumes from "
        "its last checkpoint when you set this field to false again. A model that is being "
        "served continues to be served.",
        False,
        edit=Edit.NOTHING,
    )
    run_policy: RunPolicy = field(
        "Limits on failures, restarts, waiting time and GPU time.", RunPolicy(), edit=Edit.RETRY
    )
    revision_history_limit: int = field(
        "Number of old revisions whose volumes the operator keeps, so that you can return to them "
        "without training. The serving revision and the revision of the current spec do not "
        "count. The operator deletes untrained revisions before trained ones, older ones before "
        "newer ones, and never the last one whose model can be served.",
        1,
        edit=Edit.NOTHING,
        ge=0,
        le=20,
    )
    rerun: str | None = field(
        "Any text, such as a date. To train again with the same recipe, change this value.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=63,
    )

    @property
    def common_dataset(self) -> Dataset:
        """The dataset whose prompt and held-out rows apply to all datasets."""
        if self.datasets is None:
            assert self.dataset is not None
            return self.dataset
        first = self.datasets[0]
        return Dataset.model_construct(
            first.model_fields_set - {"name", "weight"},
            **{name: getattr(first, name) for name in Dataset.model_fields},
        )

    @property
    def rows_of_training(self) -> dict[Kind, NamedDataset]:
        """The training datasets by their paths in the spec."""
        return by_path(self.dataset, self.datasets)

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.dataset) != has(self.datasets)",
            message="set exactly one of dataset (one training dataset) and datasets (a list of "
            "training datasets)",
            fails=lambda spec: (spec.dataset is None) == (spec.datasets is None),
        ),
        excludes(
            equals("training.trainOn", "responses"),
            equals("dataset.format", "text"),
            "rows in the text format have no responses: set training.trainOn: all, or remove "
            "training.trainOn",
        ),
        requires(
            equals("merge.enabled", False),
            _SERVES_NOTHING | _SERVES_ADAPTER | _SERVES_SHARED,
            "serving needs the merged model. Do one of these: set merge.enabled: true; set "
            "serving.mode: adapter or shared; or set serving.enabled: false",
        ),
        *targets.rules_of_spec(merges_nothing=_MERGES_NOTHING, serves_nothing=_SERVES_NOTHING),
        excludes(
            is_set("tracking"),
            targets.has_name(NAME),
            f"the name {NAME} is that of spec.tracking: use another name in publish",
        ),
        excludes(
            _SERVES_SHARED,
            targets.has_name(ENDPOINT),
            f"the name {ENDPOINT} is that of serving.endpointRef: use another name in publish",
        ),
        excludes(
            _SERVES_SHARED,
            equals("training.lora.useDora", True),
            "a FineTuneEndpoint cannot serve a DoRA adapter: set serving.mode: merged, or "
            "training.lora.useDora: false",
        ),
        excludes(
            _SERVES_SHARED,
            is_set("training.lora.modulesToSave"),
            "a FineTuneEndpoint cannot serve an adapter with fully trained modules: set "
            "serving.mode: merged, or remove training.lora.modulesToSave",
        ),
        excludes(
            _SERVES_ADAPTER,
            equals("training.lora.useDora", True),
            "vLLM cannot load a DoRA adapter: set serving.mode: merged, or training.lora.useDora: "
            "false",
        ),
        excludes(
            _SERVES_ADAPTER,
            is_set("training.lora.modulesToSave"),
            "vLLM cannot load an adapter with fully trained modules: set serving.mode: merged, "
            "or remove training.lora.modulesToSave",
        ),
        Rule(
            cel="!has(self.serving) || !has(self.serving.replicas) || self.serving.replicas <= 1 "
            "|| (has(self.storage) && has(self.storage.accessMode) "
            "&& self.storage.accessMode == 'ReadWriteMany')",
            message="more than one serving replica needs a volume that several nodes can mount: "
            "set storage.accessMode: ReadWriteMany, or serving.replicas: 1",
            fails=lambda spec: (
                spec.serving.replicas > 1 and spec.storage.access_mode != "ReadWriteMany"
            ),
        ),
        *HELD_OUT_RULES,
    )
