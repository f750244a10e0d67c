"""``spec`` of a FineTuneEndpoint: the base, the settings of vLLM, and the places for adapters.

A job attaches itself with ``serving.mode: shared``; the endpoint lists no jobs. Its base cannot be
changed, because every attached adapter was trained against it.
"""

from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.quantity import Quantity
from finetune_api.rules import Rule, between, matches
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.placement import Placement
from finetune_api.v1alpha1.references import object_name
from finetune_api.v1alpha1.resources import OF_PREPARE, OF_SERVE, ResourceRequirements
from finetune_api.v1alpha1.serving import NAMESPACE_NAMES
from finetune_api.v1alpha1.storage import POSITIVE_SIZE

ENDPOINT_KIND = "FineTuneEndpoint"
ENDPOINT_PLURAL = "finetuneendpoints"
BASE_KIND_DEFAULT = "dequantized"
MOST_ADAPTERS = 64
"""With eight names each, their states fit into the status."""

BaseKind = Literal["dequantized", "original"]


class EndpointModel(Model):
    """The base model, with the fields of ``spec.model`` of a FineTuneJob."""

    atomic: ClassVar[bool] = True


class EndpointPlacement(Placement):
    """Scheduling constraints of the endpoint's pods."""

    atomic: ClassVar[bool] = True


class EndpointLora(ApiModel):
    """How many adapters vLLM holds, and of which shape."""

    max_adapters: int = field(
        "Number of adapters that the endpoint serves. Another job gets the reason EndpointFull. "
        "During a rollout, the earlier adapter of a job takes no place from others.",
        8,
        edit=Edit.ROLL,
        ge=1,
        le=MOST_ADAPTERS,
    )
    max_active: int | None = field(
        "Number of adapters that generate at the same time. Requests for further adapters wait. "
        "Each one takes GPU memory for an adapter of maxRank.",
        None,
        edit=Edit.ROLL,
        builtin="maxAdapters",
        ge=1,
        le=MOST_ADAPTERS,
    )
    max_rank: int = field(
        "Highest rank of an adapter. vLLM reserves memory for the next higher one of 1, 8, 16, 32, "
        "64, 128, 256, 320 and 512.",
        16,
        edit=Edit.ROLL,
        ge=1,
        le=512,
    )
    max_wait_seconds: int = field(
        "Time in seconds after which a waiting adapter gets its turn. The adapter that generates "
        "for the longest time then starts no further requests.",
        10,
        edit=Edit.ROLL,
        ge=1,
        le=3600,
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.maxActive) || "
            "self.maxActive <= (has(self.maxAdapters) ? self.maxAdapters : 8)",
            message="lora.maxActive exceeds lora.maxAdapters: lower maxActive or raise maxAdapters",
            fails=lambda lora: (lora.max_active or 0) > lora.max_adapters,
        ),
    )

    @property
    def active(self) -> int:
        """Number of adapters that generate at the same time."""
        return self.max_active or self.max_adapters


# Resources and storage are no subclasses of those of a job: each text says what this kind does with
# the field, and an endpoint lacks half of the fields.
class EndpointResources(ApiModel):
    """CPU, memory and other resources of the endpoint's pods, except for the GPU."""

    prepare: ResourceRequirements = field(
        "Resources of the prepare pod. This pod downloads the base model and dequantizes it on a "
        "CPU. If this field is set, the default requests and limits do not apply.",
        OF_PREPARE,
        edit=Edit.RETRY,
    )
    serve: ResourceRequirements = field(
        "Resources of the vLLM container, in addition to its GPU. If this field is set, the "
        "default requests and limits do not apply.",
        OF_SERVE,
        edit=Edit.ROLL,
    )


class EndpointStorage(ApiModel):
    """The volume that holds the base and the adapters."""

    size: Quantity = field(
        "Size of the volume. It holds the base twice while it is dequantized, and for each "
        "attached job its adapter, next to the earlier one during a rollout. If the StorageClass "
        "allows expansion, you can increase the size.",
        "60Gi",
        edit=Edit.RETRY,
        rules=(POSITIVE_SIZE,),
    )
    storage_class_name: str | None = object_name(
        "Name of the StorageClass of the volume. A change does not affect an existing volume.",
        None,
        kind="StorageClass",
        builtin="the default StorageClass of the cluster",
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = field(
        "Access mode of the volume. The publish pods of the attached jobs write to it while the "
        'endpoint serves from it. With "ReadWriteOnce", they can only run on the node of the '
        "endpoint. A change does not affect an existing volume.",
        "ReadWriteOnce",
        edit=Edit.RETRY,
    )


class KeysSecretRef(ApiModel):
    """A Secret whose entries are named after jobs. Only the kubelet reads it."""

    atomic: ClassVar[bool] = True
    name: str = object_name(
        "Name of the Secret in the endpoint's namespace. The entry with the name of a job lists "
        "the SHA-256 digests (hex) of the API keys that may use this job's models, one per line. "
        "A job without an entry accepts no requests. A changed entry takes effect without a "
        "rollout.",
        kind="Secret",
        edit=Edit.ROLL,
    )


class EndpointAccess(ApiModel):
    """Who may send requests to the endpoint."""

    keys_secret_ref: KeysSecretRef | None = field(
        "Secret with the SHA-256 digests of the API keys of each job.",
        None,
        edit=Edit.ROLL,
        unset="requests need no API key",
    )
    allowed_namespaces: list[str] | None = field(
        "Namespaces with access to the endpoint, in addition to its own namespace. "
        "Requests from all other namespaces are blocked.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        min_length=1,
        max_length=32,
        rules=(NAMESPACE_NAMES,),
    )


_PARSER = matches(
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
    "use the name of a parser of vLLM, such as hermes or qwen3",
)


class FineTuneEndpointSpec(ApiModel):
    """The base, the settings of vLLM, and how many adapters there are."""

    model: EndpointModel = field(
        "The base model. Only jobs with the same base can attach themselves.", edit=Edit.FIXED
    )
    base: BaseKind = field(
        'Weights that the adapters are applied to. "dequantized": the 4-bit weights against which '
        'the adapters were trained, as 16-bit numbers. "original": the published weights, with '
        "which answers differ from those of the merged model.",
        BASE_KIND_DEFAULT,
        edit=Edit.FIXED,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        'Data type in which vLLM computes. "auto": that of the prepared base.',
        "auto",
        edit=Edit.ROLL,
    )
    max_model_len: int | None = field(
        "Maximum length of a prompt together with its answer, in tokens.",
        None,
        edit=Edit.ROLL,
        builtin="the context length of the model",
        ge=128,
        le=1_048_576,
    )
    gpu_memory_utilization: float = field(
        "Fraction of the GPU memory that vLLM uses for the weights, the adapters and the KV cache.",
        0.88,
        edit=Edit.ROLL,
        rules=(
            between(
                0.1, 0.98, "set gpuMemoryUtilization to a value from 0.1 to 0.98, such as 0.88"
            ),
        ),
    )
    tool_call_parser: str | None = field(
        "Parser of vLLM for calls of tools, such as hermes or llama3_json.",
        None,
        edit=Edit.ROLL,
        unset="the models call no tools",
        rules=(_PARSER,),
    )
    reasoning_parser: str | None = field(
        "Parser of vLLM that separates the reasoning from the answer, such as qwen3.",
        None,
        edit=Edit.ROLL,
        unset="answers are not divided",
        rules=(_PARSER,),
    )
    lora: EndpointLora = field("The adapters.", EndpointLora(), edit=Edit.ROLL)
    allow_inconclusive: bool = field(
        "Serve a model whose verification is Inconclusive: the files are correct, but rounding "
        "could hide a small fault in the log-probabilities.",
        False,
        edit=Edit.NOTHING,
    )
    access: EndpointAccess = field("Who may send requests.", EndpointAccess(), edit=Edit.NOTHING)
    resources: EndpointResources = field(
        "Resources of the pods.", EndpointResources(), edit=Edit.ROLL
    )
    placement: EndpointPlacement | None = field(
        "Scheduling constraints of all pods of the endpoint.",
        None,
        edit=Edit.ROLL,
        builtin="the node labels of the GPU models in the chart value gpu.products",
    )
    storage: EndpointStorage = field("The volume.", EndpointStorage(), edit=Edit.RETRY)
