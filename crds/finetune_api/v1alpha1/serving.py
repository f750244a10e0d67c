"""``spec.serving`` of a FineTuneJob: the OpenAI-compatible endpoint, served by vLLM."""

from typing import ClassVar, Literal

from finetune_api import GROUP
from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import Rule, between, each_matches, equals, excludes, is_set, requires
from finetune_api.v1alpha1.endpoints.names import BASE_SUFFIX, LONGEST_NAME
from finetune_api.v1alpha1.placement import Placement
from finetune_api.v1alpha1.references import SecretKeyRef, object_name

MODEL_NAME = r"^[A-Za-z0-9]([-A-Za-z0-9_.:/]*[A-Za-z0-9])?$"
NAMESPACE = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NAMESPACE_NAMES = each_matches(
    NAMESPACE,
    "write each entry of allowedNamespaces as the name of a namespace: at most 63 lower-case "
    "letters, digits and '-'",
)
WAKE_ANNOTATION = f"{GROUP}/wake"
"""Time from which an endpoint that was stopped earlier, without requests, runs again."""

EXTRA_ARGUMENTS = (
    "async-scheduling",
    "no-async-scheduling",
    "block-size",
    "cpu-offload-gb",
    "disable-access-log-for-endpoints",
    "disable-uvicorn-access-log",
    "enable-auto-tool-choice",
    "enable-chunked-prefill",
    "no-enable-chunked-prefill",
    "enable-force-include-usage",
    "enable-log-requests",
    "enable-prefix-caching",
    "no-enable-prefix-caching",
    "enable-prompt-tokens-details",
    "enable-server-load-tracking",
    "enforce-eager",
    "max-log-len",
    "max-logprobs",
    "max-num-batched-tokens",
    "max-num-seqs",
    "reasoning-parser",
    "scheduling-policy",
    "stream-interval",
    "tool-call-parser",
    "uvicorn-log-level",
)
"""Permitted arguments of ``vllm serve``: they control batching, parsing and logging only.

Arguments that read other files or URLs, run other code, change the listen address, or change the
numbers that the build was verified with are not permitted."""

_EXTRA = f"^--({'|'.join(EXTRA_ARGUMENTS)})(=[A-Za-z0-9_.,:/-]+)?$"
_EXTRA_MESSAGE = (
    "extraArgs permits only arguments of vllm serve for batching, parsing and logging: remove "
    "this argument, or write it as --name or --name=value, such as --max-num-seqs=64. "
    "docs/concepts/serving.md lists the permitted arguments"
)


SHARED = "shared"
"""Mode in which a FineTuneEndpoint serves the adapter beside those of other jobs."""
OF_OWN_PODS = {
    "apiKeySecretRef": "access.keysSecretRef",
    "allowedNamespaces": "access.allowedNamespaces",
    "dtype": "dtype",
    "extraArgs": "toolCallParser and reasoningParser",
    "gpuMemoryUtilization": "gpuMemoryUtilization",
    "idle": None,
    "maxModelLen": "maxModelLen",
    "placement": "placement",
    "replicas": None,
}
"""Fields of pods that a job with the mode ``shared`` does not have, and those of the endpoint."""


class EndpointRef(ApiModel):
    """A FineTuneEndpoint in the job's namespace."""

    atomic: ClassVar[bool] = True
    name: str = object_name(
        "Name of the FineTuneEndpoint in the job's namespace.",
        kind="FineTuneEndpoint",
        edit=Edit.REMERGE,
    )


def _not_of_a_job(name: str, other: str | None) -> str:
    """Return the message about a field of pods. other: the field of the endpoint."""
    instead = "" if other is None else f", and set {other} of the FineTuneEndpoint instead"
    return f"with serving.mode: shared, the job has no serving pods: remove serving.{name}{instead}"


class ServingPlacement(Placement):
    """Scheduling constraints of the serving pods. They replace ``spec.placement`` as a whole."""

    atomic: ClassVar[bool] = True


class Idle(ApiModel):
    """What happens to an endpoint that gets no requests."""

    atomic: ClassVar[bool] = True
    after_seconds: int = field(
        "Time in seconds without a request after which the serving pods are stopped. It starts "
        "again with each request, with each start of the pods, and with the time in the "
        "annotation finetune.dev/wake.",
        edit=Edit.NOTHING,
        ge=10,
        le=2_592_000,
    )
    action: Literal["ScaleToZero"] = field(
        'What is done then. "ScaleToZero": the serving pods are stopped and release their GPUs. '
        "To start them again, set the annotation finetune.dev/wake of the FineTuneJob to the "
        "current time.",
        "ScaleToZero",
        edit=Edit.NOTHING,
    )


class Serving(ApiModel):
    """The OpenAI-compatible endpoint of the tuned model."""

    enabled: bool = field(
        "Serve the tuned model at an OpenAI-compatible endpoint.",
        True,
        edit=Edit.NOTHING,
    )
    mode: Literal["merged", "adapter", "shared"] = field(
        'Model that vLLM loads: "merged" (the merged 16-bit model), "adapter" (the base model '
        'and the adapter, without a merge), or "shared" (a FineTuneEndpoint loads the adapter '
        "beside those of other jobs, and the job has no serving pods).",
        "merged",
        edit=Edit.REMERGE,
    )
    endpoint_ref: EndpointRef | None = field(
        'The endpoint that serves the adapter. Required if mode is "shared".',
        None,
        edit=Edit.REMERGE,
        unset="the job has serving pods of its own",
    )
    rollout: Literal["Auto", "KeepServing", "FreeGPU"] = field(
        'What the serving pods do if a train pod finds no free GPU. "Auto": release their GPU '
        "after releaseAfterSeconds if the train pod lacks only a GPU, at most once per revision. "
        '"KeepServing": keep their GPU. "FreeGPU": release their GPU immediately. The serving pods '
        "start again if training is suspended or fails.",
        "Auto",
        edit=Edit.NOTHING,
    )
    release_after_seconds: int = field(
        "Waiting time in seconds. If a train pod or a pod of a new build waits longer for a free "
        "GPU, the serving pods release their GPU. Used if rollout is Auto.",
        600,
        edit=Edit.NOTHING,
        ge=0,
        le=604_800,
    )
    replicas: int = field(
        "Number of serving pods. Each pod needs its own GPU. Set this field to 0 to stop serving "
        "and keep all artifacts. More than one pod requires storage.accessMode: ReadWriteMany. If "
        "you use an autoscaler, set this field: autoscalers fail if the field is unset.",
        1,
        edit=Edit.NOTHING,
        ge=0,
        le=64,
    )
    idle: Idle | None = field(
        "Stop the serving pods while the endpoint gets no requests.",
        None,
        edit=Edit.NOTHING,
        unset="the serving pods keep running",
    )
    max_model_len: int | None = field(
        "Maximum length of a prompt together with its answer, in tokens.",
        None,
        edit=Edit.ROLL,
        builtin="the context length of the model",
        ge=128,
        le=1_048_576,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        'Data type of the base model in vLLM. Used if mode is "adapter". With "auto", vLLM uses '
        'the data type of the published base model. If mode is "merged", set merge.dtype instead.',
        "auto",
        edit=Edit.ROLL,
    )
    gpu_memory_utilization: float = field(
        "Fraction of the GPU memory that vLLM uses for the weights and the KV cache.",
        0.88,
        edit=Edit.ROLL,
        rules=(
            between(
                0.1, 0.98, "set gpuMemoryUtilization to a value from 0.1 to 0.98, such as 0.88"
            ),
        ),
    )
    extra_args: list[str] | None = field(
        "Additional arguments of the command `vllm serve`, each as --name or --name=value. Only "
        "arguments for batching, parsing and logging are permitted.",
        None,
        edit=Edit.ROLL,
        builtin="none",
        max_length=32,
        rules=(each_matches(_EXTRA, _EXTRA_MESSAGE),),
    )
    served_model_names: list[str] | None = field(
        "Model names that clients can use in requests. Responses contain the first name.",
        None,
        edit=Edit.ROLL,
        builtin="the name of the job",
        min_length=1,
        max_length=8,
        rules=(
            each_matches(
                MODEL_NAME,
                "use only letters, digits, '-', '_', '.', ':' and '/' in servedModelNames, such "
                "as acme/support",
            ),
        ),
    )
    api_key_secret_ref: SecretKeyRef | None = field(
        "Secret with the API key. Requests must contain this key as a bearer token. The operator "
        "never reads the Secret.",
        None,
        edit=Edit.ROLL,
        unset="requests need no API key",
    )
    placement: ServingPlacement | None = field(
        "Scheduling constraints for the serving pods. These constraints replace spec.placement as "
        "a whole. The selected nodes must be able to mount the volume that contains the model.",
        None,
        edit=Edit.ROLL,
        builtin="spec.placement",
    )
    allowed_namespaces: list[str] | None = field(
        "Namespaces with access to the endpoint, in addition to the namespace of the job. "
        "Requests from all other namespaces are blocked.",
        None,
        edit=Edit.NOTHING,
        builtin="none",
        min_length=1,
        max_length=32,
        rules=(NAMESPACE_NAMES,),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        requires(
            equals("mode", SHARED),
            is_set("endpointRef"),
            "serving.mode: shared needs an endpoint: set serving.endpointRef.name to the name of a "
            "FineTuneEndpoint in the namespace of the job",
        ),
        requires(
            is_set("endpointRef"),
            equals("mode", SHARED),
            "serving.endpointRef applies only to serving.mode: shared: remove endpointRef, or set "
            "mode: shared",
        ),
        Rule(
            cel=f"!has(self.mode) || self.mode != '{SHARED}' || !has(self.servedModelNames) "
            f"|| self.servedModelNames.all(name, size(name) <= {LONGEST_NAME})",
            message=f"a FineTuneEndpoint serves names of at most {LONGEST_NAME} characters: "
            "set shorter names in servedModelNames",
            fails=lambda serving: (
                serving.mode == SHARED
                and any(len(name) > LONGEST_NAME for name in serving.served_model_names or ())
            ),
        ),
        *(
            excludes(equals("mode", SHARED), is_set(name), _not_of_a_job(name, other))
            for name, other in OF_OWN_PODS.items()
        ),
        requires(
            equals("dtype", "float16") | equals("dtype", "bfloat16"),
            equals("mode", "adapter"),
            "a merged model is served in the data type of merge.dtype: remove serving.dtype, or "
            "set serving.mode: adapter",
        ),
        Rule(
            cel="!has(self.mode) || self.mode != 'adapter' || !has(self.servedModelNames) "
            "|| (size(self.servedModelNames) == 1 "
            f"&& !self.servedModelNames[0].endsWith('{BASE_SUFFIX}'))",
            message="with serving.mode: adapter, servedModelNames must contain exactly one name: "
            f"set one name that does not end in {BASE_SUFFIX} (this suffix is reserved for the "
            "base model)",
            fails=lambda serving: (
                serving.mode == "adapter"
                and serving.served_model_names is not None
                and (
                    len(serving.served_model_names) != 1
                    or serving.served_model_names[0].endswith(BASE_SUFFIX)
                )
            ),
        ),
    )
