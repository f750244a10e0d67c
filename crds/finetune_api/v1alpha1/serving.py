"""``spec.serving`` of a FineTuneJob: the OpenAI-compatible endpoint, in vLLM's words."""

import re
from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, Rule, between, field
from finetune_api.v1alpha1.placement import Placement
from finetune_api.v1alpha1.references import SecretKeyRef

MODEL_NAME = r"^[A-Za-z0-9]([-A-Za-z0-9_.:/]*[A-Za-z0-9])?$"
NAMESPACE = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
BASE_SUFFIX = "-base"
"""Ends the name that the unchanged base has beside an adapter."""

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
"""Arguments of ``vllm serve`` that a user may give: how requests are batched, parsed and logged.

Not among them is what would read other files or addresses, run other code, listen elsewhere, or
change the numbers that the build was verified with."""

_EXTRA = f"^--({'|'.join(EXTRA_ARGUMENTS)})(=[A-Za-z0-9_.,:/-]+)?$"
_EXTRA_MESSAGE = (
    "extraArgs takes arguments of vllm serve that only batch, parse or log, each as --name or "
    "--name=value, such as --max-num-seqs=64: remove the others "
    "(docs/concepts/serving.md has the list)"
)


def _each(pattern: str, message: str) -> Rule:
    """Return the rule that every item of a list matches ``pattern``."""
    compiled = re.compile(pattern)
    return Rule(
        cel=f"self.all(item, item.matches('{pattern}'))",
        message=message,
        fails=lambda items: not all(compiled.fullmatch(item) for item in items),
    )


class ServingPlacement(Placement):
    """Where the serving pods may run, in place of ``spec.placement``."""

    atomic: ClassVar[bool] = True


class Serving(ApiModel):
    """The OpenAI-compatible endpoint of the tuned model."""

    enabled: bool = field(
        "Serve the tuned model. Switching it on or off changes nothing that is trained or merged.",
        True,
        edit=Edit.NOTHING,
    )
    mode: Literal["merged", "adapter"] = field(
        "What vLLM loads: merged, the 16-bit model that base and adapter were merged into, or "
        "adapter, the base with the adapter beside it; then nothing is merged.",
        "merged",
        edit=Edit.REMERGE,
    )
    rollout: Literal["KeepServing", "FreeGPU"] = field(
        "What the build that serves does while the next one is made: KeepServing, it goes on, "
        "which takes a second GPU while training; FreeGPU, it gives its GPU up once the data is "
        "ready and a train pod finds no other, and comes back when that is paused or fails.",
        "KeepServing",
        edit=Edit.NOTHING,
    )
    replicas: int = field(
        "Serving pods, each on a GPU of its own; 0 stops serving and keeps everything. More than "
        "one need storage.accessMode: ReadWriteMany. Write it where kubectl scale or an "
        "autoscaler is to change it.",
        1,
        edit=Edit.NOTHING,
        ge=0,
        le=64,
    )
    max_model_len: int | None = field(
        "Longest prompt plus answer that is served, in tokens.",
        None,
        edit=Edit.ROLL,
        builtin="the model's own context length",
        ge=128,
        le=1_048_576,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        "Number format that the base is served in with mode adapter; auto is the base's own. A "
        "merged model is served in the format of merge.dtype.",
        "auto",
        edit=Edit.ROLL,
    )
    gpu_memory_utilization: float = field(
        "Share of the card's memory that vLLM takes for weights and KV cache.",
        0.88,
        edit=Edit.ROLL,
        rules=(
            between(
                0.1,
                0.98,
                "gpuMemoryUtilization is a share of the card's memory: from 0.1 to 0.98, "
                "such as 0.88",
            ),
        ),
    )
    extra_args: list[str] | None = field(
        "Further arguments of vllm serve, each as --name or --name=value, from a list of those "
        "that only batch, parse or log.",
        None,
        edit=Edit.ROLL,
        builtin="none",
        max_length=32,
        rules=(_each(_EXTRA, _EXTRA_MESSAGE),),
    )
    served_model_names: list[str] | None = field(
        "Names that requests may call the model; the first is the one that answers carry.",
        None,
        edit=Edit.ROLL,
        builtin="the job's name",
        min_length=1,
        max_length=8,
        rules=(
            _each(
                MODEL_NAME,
                "servedModelNames takes names of letters, digits, '-', '_', '.', ':' and '/', "
                "such as acme/support",
            ),
        ),
    )
    api_key_secret_ref: SecretKeyRef | None = field(
        "Secret with the key that requests must carry as a bearer token. The operator never reads "
        "it.",
        None,
        edit=Edit.ROLL,
        builtin="none; whoever reaches the endpoint may use it",
    )
    placement: ServingPlacement | None = field(
        "Where the serving pods may run, in place of spec.placement; they need the same volume.",
        None,
        edit=Edit.ROLL,
        builtin="that of spec.placement",
    )
    allowed_namespaces: list[str] | None = field(
        "Namespaces whose pods may call the endpoint; all others are refused.",
        None,
        edit=Edit.NOTHING,
        builtin="the job's own",
        min_length=1,
        max_length=32,
        rules=(
            _each(
                NAMESPACE,
                "allowedNamespaces takes names of namespaces: lower-case letters, digits and '-' "
                "only",
            ),
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.dtype) || self.dtype == 'auto' "
            "|| (has(self.mode) && self.mode == 'adapter')",
            message="a merged model is served in the number format of merge.dtype: "
            "remove serving.dtype, or set serving.mode: adapter",
            fails=lambda s: s.dtype != "auto" and s.mode != "adapter",
        ),
        Rule(
            cel="!has(self.mode) || self.mode != 'adapter' || !has(self.servedModelNames) "
            "|| (size(self.servedModelNames) == 1 "
            f"&& !self.servedModelNames[0].endsWith('{BASE_SUFFIX}'))",
            message="with serving.mode adapter vLLM loads the adapter once for each name, and the "
            f"base's own name ends in {BASE_SUFFIX}: write a single name with another end",
            fails=lambda s: (
                s.mode == "adapter"
                and s.served_model_names is not None
                and (
                    len(s.served_model_names) != 1 or s.served_model_names[0].endswith(BASE_SUFFIX)
                )
            ),
        ),
    )
