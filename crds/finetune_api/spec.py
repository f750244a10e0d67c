"""``spec`` of a FineTuneJob: what a user may ask for.

Field names are Kubernetes-style camelCase of the words that Hugging Face, PEFT, TRL and vLLM use.
The default of each field is its built-in value; ``None`` means that the value is worked out later
(by the trainer from the data and the card, or by the cluster), as the description says.
"""

from typing import ClassVar, Literal

from finetune_api import sources
from finetune_api.fields import ApiModel, Edit, Rule, between, field, labels, matches
from finetune_api.pods import NAME, Placement, SecretKeyRef
from finetune_api.quantity import Quantity, amount, comparable
from finetune_api.recipe import Training
from finetune_api.serving import Serving
from finetune_api.sources import S3, ConfigMapKeyRef

PROMPT_PLACE = "{prompt}"
"""Where a promptFormat takes the prompt."""

COLUMNS_OF_FORMAT = {
    "alpaca": ("instruction", "input", "output"),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}


class Model(ApiModel):
    """The base model."""

    source: str = field(
        "Where the base model is: a repository on the hub as hf://org/name, a folder of a "
        "PersistentVolumeClaim in the job's namespace as pvc://claim/path, a prefix in S3 as "
        "s3://bucket/prefix, or a list of files as https://host/path/SHA256SUMS. It must hold "
        "safetensors.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CLAIM_SOURCE}|{sources.S3_SOURCE}"
                f"|{sources.HTTPS_SOURCE}",
                "write the model's repository as hf://org/name, "
                "for instance hf://meta-llama/Meta-Llama-3-8B-Instruct, "
                "or its folder as pvc://claim/path, s3://bucket/prefix or "
                "https://host/path/SHA256SUMS",
            ),
        ),
    )
    revision: str | None = sources.revision("model")
    sha256: str | None = sources.sha256("model")
    token_secret_ref: SecretKeyRef | None = sources.token("model")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca("model")
    s3: S3 = sources.s3("model")
    rules: ClassVar[tuple[Rule, ...]] = (
        *sources.rules("model"),
        Rule(
            cel="!self.source.startsWith('https://') || self.source.endsWith('/SHA256SUMS')",
            message="a model is several files: over https://, write the address of the list of "
            "them that sha256sum prints, named SHA256SUMS and beside them",
            fails=lambda m: (
                m.source.startswith("https://") and not m.source.endswith("/SHA256SUMS")
            ),
        ),
    )


class Columns(ApiModel):
    """Which column of the dataset plays which part, where its name differs from the part's."""

    instruction: str | None = field(
        "Column with the instruction (format alpaca).",
        None,
        edit=Edit.RETRAIN,
        builtin="instruction",
        min_length=1,
        max_length=128,
    )
    input: str | None = field(
        "Column with the optional input (format alpaca); it may be absent from the data.",
        None,
        edit=Edit.RETRAIN,
        builtin="input",
        min_length=1,
        max_length=128,
    )
    output: str | None = field(
        "Column with the answer (format alpaca).",
        None,
        edit=Edit.RETRAIN,
        builtin="output",
        min_length=1,
        max_length=128,
    )
    messages: str | None = field(
        "Column with the list of {role, content} (format messages).",
        None,
        edit=Edit.RETRAIN,
        builtin="messages",
        min_length=1,
        max_length=128,
    )
    prompt: str | None = field(
        "Column with the prompt (format prompt-completion).",
        None,
        edit=Edit.RETRAIN,
        builtin="prompt",
        min_length=1,
        max_length=128,
    )
    completion: str | None = field(
        "Column with the completion (format prompt-completion).",
        None,
        edit=Edit.RETRAIN,
        builtin="completion",
        min_length=1,
        max_length=128,
    )
    text: str | None = field(
        "Column with the text (format text).",
        None,
        edit=Edit.RETRAIN,
        builtin="text",
        min_length=1,
        max_length=128,
    )

    def of(self, part: str) -> str:
        """Return the name of the column that plays ``part`` (such as ``instruction``)."""
        return getattr(self, part) or part


def _columns_rule(format_: str, parts: tuple[str, ...]) -> Rule:
    foreign = [part for part in Columns.model_fields if part not in parts]
    none_set = " && ".join(f"!has(self.columns.{part})" for part in foreign)
    return Rule(
        cel=f"self.format != '{format_}' || !has(self.columns) || ({none_set})",
        message=f"format {format_} reads the columns {', '.join(parts)} only: "
        "remove the others from columns, or change format",
        fails=lambda dataset: (
            dataset.format == format_
            and any(getattr(dataset.columns, part) is not None for part in foreign)
        ),
    )


class Dataset(ApiModel):
    """The rows to train on."""

    source: str = field(
        "Where the rows are: a dataset repository on the hub as hf://org/name, a file or folder of "
        "a PersistentVolumeClaim in the job's namespace as pvc://claim/path, a file or prefix in "
        "S3 as s3://bucket/path, a file or a SHA256SUMS list of files as https://host/path, or a "
        "small JSONL file in a ConfigMap of the job's namespace as configmap://name/key.",
        edit=Edit.RETRAIN,
        max_length=512,
        rules=(
            matches(
                f"{sources.HF_SOURCE}|{sources.CONFIGMAP_SOURCE}|{sources.CLAIM_SOURCE}"
                f"|{sources.S3_SOURCE}|{sources.HTTPS_SOURCE}",
                "write the dataset as hf://org/name, pvc://claim/path, s3://bucket/path, "
                "https://host/path or, for a small JSONL file in a ConfigMap, "
                "as configmap://name/key",
            ),
        ),
    )
    format: Literal["alpaca", "messages", "prompt-completion", "text"] = field(
        "How a row is read: alpaca (instruction, input, output), messages (a chat), "
        "prompt-completion, or text (trained as it is).",
        edit=Edit.RETRAIN,
    )
    revision: str | None = sources.revision("dataset")
    sha256: str | None = sources.sha256("dataset")
    split: str = field(
        "Split of the dataset to train on.",
        "train",
        edit=Edit.RETRAIN,
        max_length=128,
        rules=(matches(r"^[A-Za-z0-9_.-]+$", "a split is one name, such as train"),),
    )
    validation_fraction: float | None = field(
        "Share of the rows that is held out for evaluation; 0 holds out none. "
        "Rows are chosen by a hash of their content and the seed.",
        None,
        edit=Edit.RETRAIN,
        builtin="0.05 from 400 rows on, none below",
        rules=(
            between(
                0, 0.5, "validationFraction is a share of the rows: from 0 to 0.5, such as 0.05"
            ),
        ),
    )
    max_samples: int | None = field(
        "Train on the first rows only, this many.",
        None,
        edit=Edit.RETRAIN,
        builtin="all rows",
        ge=1,
    )
    prompt_template: Literal["auto", "chat", "alpaca"] = field(
        "How a prompt is rendered: chat (the base's chat template), alpaca (the Alpaca prompt), "
        "or auto: the chat template where the base has one, the Alpaca prompt otherwise. The "
        "endpoint's chat template renders the same prompt that was trained.",
        "auto",
        edit=Edit.RETRAIN,
    )
    prompt_format: str | None = field(
        "Own prompt, with {prompt} where the instruction and its input (or the prompt column) go, "
        "such as 'Question: {prompt}\\nAnswer: '. The endpoint's chat template renders the same.",
        None,
        edit=Edit.RETRAIN,
        builtin="none",
        max_length=4096,
        rules=(
            Rule(
                cel="self.contains('{prompt}') "
                "&& self.indexOf('{prompt}') == self.lastIndexOf('{prompt}')",
                message="write {prompt} exactly once in promptFormat, where the prompt goes",
                fails=lambda text: text.count(PROMPT_PLACE) != 1,
            ),
        ),
    )
    chat_template: str | None = field(
        "Own chat template, in Jinja, in place of the base's. The merged model ships it.",
        None,
        edit=Edit.RETRAIN,
        builtin="the base's own",
        min_length=1,
        max_length=65536,
    )
    duplicates: Literal["keep", "drop"] = field(
        "Rows with the same content: kept, or dropped but for the first. They are counted either "
        "way.",
        "keep",
        edit=Edit.RETRAIN,
    )
    columns: Columns = field(
        "Names of the columns, where they differ from the format's own.",
        Columns(),
        edit=Edit.RETRAIN,
        builtin="the format's own names",
    )
    token_secret_ref: SecretKeyRef | None = sources.token("dataset")
    ca_config_map_ref: ConfigMapKeyRef | None = sources.ca("dataset")
    s3: S3 = sources.s3("dataset")
    rules: ClassVar[tuple[Rule, ...]] = (
        *sources.rules("dataset"),
        Rule(
            cel="!self.source.startsWith('configmap://') || !has(self.split) "
            "|| self.split == 'train'",
            message="a ConfigMap has no splits: remove dataset.split",
            fails=lambda d: d.source.startswith("configmap://") and d.split != "train",
        ),
        Rule(
            cel="!has(self.promptTemplate) || self.promptTemplate != 'alpaca' "
            "|| self.format == 'alpaca'",
            message="promptTemplate alpaca renders rows of format alpaca only: "
            "set format: alpaca, or leave promptTemplate out",
            fails=lambda d: d.prompt_template == "alpaca" and d.format != "alpaca",
        ),
        Rule(
            cel="!has(self.promptTemplate) || self.promptTemplate == 'auto' "
            "|| self.format != 'text'",
            message="rows of format text are trained as they are: remove promptTemplate",
            fails=lambda d: d.prompt_template == "chat" and d.format == "text",
        ),
        Rule(
            cel="!has(self.chatTemplate) || !has(self.promptFormat)",
            message="chatTemplate and promptFormat exclude each other: remove one of them",
            fails=lambda d: d.chat_template is not None and d.prompt_format is not None,
        ),
        Rule(
            cel="!(has(self.chatTemplate) || has(self.promptFormat)) "
            "|| ((!has(self.promptTemplate) || self.promptTemplate != 'alpaca') "
            "&& self.format != 'text')",
            message="chatTemplate and promptFormat take the place of the base's chat template, "
            "which promptTemplate alpaca and format text do not use: remove one of the two",
            fails=lambda d: (
                (d.chat_template is not None or d.prompt_format is not None)
                and (d.prompt_template == "alpaca" or d.format == "text")
            ),
        ),
        Rule(
            cel="!has(self.promptFormat) || self.format != 'messages'",
            message="promptFormat renders one prompt and its answer: write a chatTemplate for "
            "conversations",
            fails=lambda d: d.prompt_format is not None and d.format == "messages",
        ),
        *(_columns_rule(name, parts) for name, parts in COLUMNS_OF_FORMAT.items()),
    )


class Merge(ApiModel):
    """The 16-bit model made of base and adapter."""

    enabled: bool = field(
        "Merge the adapter into a 16-bit model. Switching it on for a trained job merges without "
        "training again. With serving.mode adapter nothing is merged.",
        True,
        edit=Edit.NOTHING,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        "Number format of the merged weights; auto is float16, and bfloat16 for the model "
        "families that vLLM refuses in float16.",
        "auto",
        edit=Edit.REMERGE,
    )
    base: Literal["dequantized", "original"] = field(
        "What the adapter is added to: dequantized, the 4-bit rounded weights that it was trained "
        "against and evaluated on, or original, the base as published.",
        "dequantized",
        edit=Edit.REMERGE,
    )


class Evaluation(ApiModel):
    """What becomes of a model that held-out rows show to be worse than its base."""

    on_regression: Literal["Stall", "Serve"] = field(
        "What to do with a model whose held-out loss is above its base model's by more than two "
        "standard errors, on at least 30 rows: Stall does not serve it, and what served before "
        "goes on; Serve serves it all the same. With fewer held-out rows nothing is decided.",
        "Stall",
        edit=Edit.NOTHING,
    )


class BaseCache(ApiModel):
    """A folder of models, as the hub's own client keeps it, on a claim that jobs share."""

    atomic: ClassVar[bool] = True
    claim_name: str = field(
        "PersistentVolumeClaim in the job's namespace. It is mounted read-only.",
        edit=Edit.RETRY,
        max_length=253,
        rules=(matches(NAME, "a claim's name has lower-case letters, digits, '-' and '.' only"),),
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
    storage_class_name: str | None = field(
        "Storage class of the volume.",
        None,
        edit=Edit.RETRY,
        builtin="the cluster's default class",
        max_length=253,
        rules=(matches(NAME, "a storage class has lower-case letters, digits, '-' and '.' only"),),
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


class Access(ApiModel):
    """Who a job is towards the cloud."""

    service_account_name: str | None = field(
        "ServiceAccount of the stage pod alone, for a cloud identity that reads s3:// sources. The "
        "pod gets no token for the API server.",
        None,
        edit=Edit.RETRY,
        builtin="none",
        max_length=253,
        rules=(matches(NAME, "a ServiceAccount has lower-case letters, digits, '-' and '.' only"),),
    )


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

    stage: ResourceRequirements = field(
        "The stage pod: download, validation and tokenisation, on a CPU.",
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


class PodMetadata(ApiModel):
    """What is written on the job's pods."""

    labels: dict[str, str] | None = field(
        "Labels for the job's pods and other objects, such as a cost centre.",
        None,
        edit=Edit.ROLL,
        builtin="none",
        max_length=16,
        rules=(labels("labels takes Kubernetes labels, such as example.com/cost-centre: a-42"),),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.labels) || !self.labels.exists(k, k.startsWith('finetune.dev/') "
            "|| k.startsWith('app.kubernetes.io/') || k.startsWith('kueue.x-k8s.io/'))",
            message="labels under finetune.dev/, app.kubernetes.io/ and kueue.x-k8s.io/ are the "
            "operator's: use another prefix, or spec.queueName for Kueue",
            fails=lambda m: any(
                key.startswith(("finetune.dev/", "app.kubernetes.io/", "kueue.x-k8s.io/"))
                for key in m.labels or {}
            ),
        ),
    )


class RunPolicy(ApiModel):
    """How much failure and how much GPU time a job may take."""

    backoff_limit: int = field(
        "Failures of a stage's pod that are retried before the stage fails. A failure that no "
        "retry can mend, such as a broken dataset, is never retried.",
        3,
        edit=Edit.RETRY,
        ge=0,
        le=20,
    )
    max_restarts: int = field(
        "How often a stage may be started again, over all its attempts: after failures, and after "
        "disruptions of its node, which backoffLimit does not count. Past it the job fails with "
        "TooManyRestarts. Pauses and preemptions by the queue are free.",
        20,
        edit=Edit.RETRY,
        ge=0,
        le=1000,
    )
    max_gpu_seconds: int | None = field(
        "GPU-seconds that training may take over all attempts; past it the job fails with "
        "BudgetExceeded.",
        None,
        edit=Edit.RETRY,
        builtin="no limit",
        ge=60,
    )
    pending_deadline_seconds: int = field(
        "Seconds that a pod may be kept from starting by something a person must mend, such as a "
        "missing Secret, before the job is Stalled. It recovers by itself once that is mended.",
        600,
        edit=Edit.RETRY,
        ge=30,
    )


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
        "The gate between a trained model and the endpoint.", Evaluation(), edit=Edit.NOTHING
    )
    serving: Serving = field("The endpoint.", Serving(), edit=Edit.ROLL)
    storage: Storage = field("The volume.", Storage(), edit=Edit.RETRY)
    access: Access = field("Who the job is towards the cloud.", Access(), edit=Edit.RETRY)
    resources: Resources = field("CPU and memory of each stage.", Resources(), edit=Edit.RETRY)
    placement: Placement = field("Where the pods may run.", Placement(), edit=Edit.RETRY)
    queue_name: str | None = field(
        "Kueue LocalQueue for the train Job, which is the only one that asks for GPU quota. With "
        "a queue the administrator's node selector is left to the queue's flavors.",
        None,
        edit=Edit.RETRY,
        builtin="none",
        max_length=63,
        rules=(matches(NAME, "a LocalQueue has lower-case letters, digits, '-' and '.' only"),),
    )
    workload_priority_class_name: str | None = field(
        "Kueue WorkloadPriorityClass of the train Job: its place in the queue and who is preempted "
        "for it. The pods keep the priority of priorityClassName.",
        None,
        edit=Edit.RETRY,
        builtin="none",
        max_length=63,
        rules=(
            matches(
                NAME, "a WorkloadPriorityClass has lower-case letters, digits, '-' and '.' only"
            ),
        ),
    )
    priority_class_name: str | None = field(
        "PriorityClass of the job's pods.",
        None,
        edit=Edit.RETRY,
        builtin="the cluster's default priority",
        max_length=253,
        rules=(matches(NAME, "a PriorityClass has lower-case letters, digits, '-' and '.' only"),),
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
            cel="!has(self.serving) || !has(self.serving.replicas) || self.serving.replicas <= 1 "
            "|| (has(self.storage) && has(self.storage.accessMode) "
            "&& self.storage.accessMode == 'ReadWriteMany')",
            message="more than one replica needs a volume that several nodes can use: "
            "set storage.accessMode: ReadWriteMany, or serving.replicas: 1",
            fails=lambda s: s.serving.replicas > 1 and s.storage.access_mode != "ReadWriteMany",
        ),
        Rule(
            cel="!has(self.dataset.validationFraction) || self.dataset.validationFraction != 0.0 "
            "|| !has(self.training) || !has(self.training.advanced) "
            "|| !has(self.training.advanced.evalSteps)",
            message="evalSteps evaluates held-out rows, and validationFraction: 0 holds out none: "
            "remove one of them",
            fails=lambda s: (
                s.dataset.validation_fraction == 0 and s.training.advanced.eval_steps is not None
            ),
        ),
        Rule(
            cel="!has(self.dataset.validationFraction) || self.dataset.validationFraction != 0.0 "
            "|| !has(self.training) || !has(self.training.advanced) "
            "|| !has(self.training.advanced.earlyStoppingPatience)",
            message="earlyStoppingPatience needs held-out rows, and validationFraction: 0 holds "
            "out none: remove one of them",
            fails=lambda s: (
                s.dataset.validation_fraction == 0
                and s.training.advanced.early_stopping_patience is not None
            ),
        ),
    )
