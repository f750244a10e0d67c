"""The request of a stage: what a trainer process does, as one argument in JSON.

``job.json`` has the fields of the spec that determine training. The request has the rest: paths,
digests of what earlier stages published, and values that may differ between two attempts. The
operator fills it in for a Job, and ``ftj run`` for a local run.

A revision keeps its trainer image, so an operator writes requests for the images of earlier
releases. The revision records the version of the contract next to the image:

* Unknown fields are an error: an image that ignored ``destinations`` would connect to every server.
* A field may be added if its default keeps the present behavior. A field that has its default is
  not written, so that an earlier image rejects only a request that needs the new field.
* Every other change needs another ``CONTRACT_VERSION``, and the operator renders requests of the
  earlier ones as before. Version 1 was a command line (``manifests.argv_v1`` of the operator), and
  ``destinations`` had one limit on hosts up to version 2.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_api.base import CamelModel
from finetune_api.contracts.destinations import Destinations
from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_api.contracts.publish_targets import PublishTargetRequest, SharedEndpoint
from finetune_api.v1alpha1.model import Model
from finetune_api.v1alpha1.serving import SHARED
from finetune_api.v1alpha1.spec import FineTuneJobSpec

CONTRACT_VERSION: Literal[3] = 3


class _Argument(CamelModel):
    contract: Literal[2, 3] = CONTRACT_VERSION
    """Version of the contract that the request follows. One of version 2 has no further fields."""

    def to_argument(self) -> str:
        """Return the request as an argument of a container.

        ASCII without "$": the kubelet replaces ``$(NAME)`` in arguments by an environment variable,
        whose value a tenant may have chosen.
        """
        values = self.model_dump(mode="json", exclude_defaults=True)
        fixed = self.model_dump(include={"contract", "stage"})
        return json.dumps(fixed | values, separators=(",", ":")).replace("$", "\\u0024")


class _Request(_Argument):
    config: str
    """Path of ``job.json``."""
    config_digest: str | None = None
    """SHA-256 (hex) of ``job.json``, from the ledger. The stage fails if the file has another one;
    None, as in a local run, accepts any file."""
    work: str
    """Root folder of the volume."""


class ServingSettings(CamelModel):
    """Settings of the serving pods on which the memory of vLLM depends."""

    gpu_memory_utilization: float
    """Share of the GPU memory that vLLM may use, from 0 to 1."""
    max_model_len: int | None = None
    """Longest request, in tokens; None for the context length of the model."""
    dtype: str = "auto"
    """Data type in which vLLM computes."""

    @classmethod
    def of(cls, spec: FineTuneJobSpec, *, dtype: str = "") -> "ServingSettings | None":
        """Return the settings of a job; None if it serves nothing. dtype: overrides the spec."""
        serving = spec.serving
        if not serving.enabled or serving.mode == SHARED:
            return None
        return cls(
            gpu_memory_utilization=serving.gpu_memory_utilization,
            max_model_len=serving.max_model_len,
            dtype=dtype or (spec.merge.dtype if serving.mode == "merged" else serving.dtype),
        )


class PrepareStageRequest(_Request):
    """Download base and dataset, check them, and tokenize the rows."""

    stage: Literal["prepare"] = "prepare"
    cards: tuple[str, ...] = ()
    """GPU models that the train pod may get, as in the node label nvidia.com/gpu.product. The
    memory is checked for the smallest one; without any, it is not checked."""
    driver: int | None = None
    """Branch of the NVIDIA driver on the GPU nodes, such as 580; None if it is not known."""
    compute_capability: str | None = None
    """Compute capability of the GPUs as MAJOR.MINOR; None if it is not known."""
    serving: ServingSettings | None = None
    """None if no model is served."""
    merges: bool = True
    """Whether the volume needs space for a merged model."""
    volume_size: str | None = None
    """``storage.size``, a quantity; None checks only the free space of the volume."""
    train_memory: str | None = None
    """Memory limit of the train container, a quantity; None skips the check of host memory."""
    untrusted_volume: bool = False
    """Whether an earlier FineTuneJob used the volume: only downloaded files with the SHA-256 that
    their source states are kept, and all other files are deleted."""
    destinations: Destinations | None = None
    """Connections that the process may open; None, as in a local run, allows all."""
    ca_certificates: str = ""
    """CA certificates in PEM format to trust in addition to those of the image."""
    signatures: tuple[RequiredSignature, ...] = ()
    """Signatures that sources of the job need; a source that no entry covers needs none."""
    endpoint: SharedEndpoint | None = None
    """The endpoint that will serve the adapter beside others; None if none will."""


class _LaterRequest(_Request):
    base_manifest: str | None = None
    """SHA-256 (hex) of ``base/manifest.json``, from the ledger. The stage rejects a folder with
    another manifest, so the operator passes an empty text if the ledger has none; None, as in a
    local run, accepts any."""
    images: Mapping[str, str] = Field(default_factory=dict)
    """Image IDs of the earlier stages, by stage, for the model card. The container runtime resolves
    the image of a pod when the pod starts, so a stage cannot be given its own."""


class TrainStageRequest(_LaterRequest):
    """Train the adapter on the prepared base and dataset."""

    stage: Literal["train"] = "train"
    dataset_manifest: str | None = None
    """SHA-256 of ``dataset/manifest.json``, like ``base_manifest``."""
    max_gpu_seconds: int | None = None
    """Limit of the GPU time of all attempts on this volume, in seconds."""


class MergeStageRequest(_LaterRequest):
    """Merge the adapter into a 16-bit model."""

    stage: Literal["merge"] = "merge"
    adapter_manifest: str | None = None
    """SHA-256 of ``adapter/manifest.json``, like ``base_manifest``."""
    build: str
    """Name of the build; the model is written to ``merged-<build>``."""
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    """``merge.dtype``: number format of the merged model."""
    base: Literal["dequantized", "original"] = "dequantized"
    """``merge.base``: the weights to which the adapter is added."""
    largest_activation: int | None = None
    """Largest magnitude of an activation of the tuned model, as the train stage reported it. With
    ``dtype: auto``, a large value selects bfloat16; None if it was not recorded."""


class PublishStageRequest(_LaterRequest):
    """Upload the adapter or the merged model to targets, and read back what they hold.

    Each target is attempted, whatever the outcome of the others. The result names each one, also
    if the stage fails (``result.PublishArtifacts``).
    """

    stage: Literal["publish"] = "publish"
    targets: tuple[PublishTargetRequest, ...] = Field(min_length=1)
    build: str | None = None
    """Name of the build, whose model is in ``merged-<build>``; None if no target has one."""
    adapter_manifest: str | None = None
    """SHA-256 of ``adapter/manifest.json``, like ``base_manifest``. It is set if a hub gets the
    merged model, whose card has the held-out loss of the adapter."""
    destinations: Destinations | None = None
    """Connections that the process may open; None, as in a local run, allows all."""
    ca_certificates: str = ""
    """CA certificates in PEM format to trust in addition to those of the image."""


class BaseStageRequest(_Argument):
    """Make the base of a shared endpoint: download it, and dequantize it if that is asked for.

    There is no ``job.json``: the request has all that the process needs. The base is published as
    the folder ``base`` of the volume, and an equal one that is there is kept. Credentials are in
    the environment variables of the source ``model``, as in the prepare stage.
    """

    stage: Literal["base"] = "base"
    work: str
    """Root folder of the endpoint's volume."""
    model: Model
    base: Literal["dequantized", "original"] = "dequantized"
    """The weights that vLLM loads; ``original`` only downloads them."""
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    """Number format of a dequantized base, as ``dtype`` of the merge stage."""
    quantized_by: Literal["cuda", "cpu"] = "cuda"
    """Device on which the adapters are trained: the codes of a few blocks differ."""
    destinations: Destinations | None = None
    """Connections that the process may open; None, as in a local run, allows all."""
    ca_certificates: str = ""
    """CA certificates in PEM format to trust in addition to those of the image."""
    signatures: tuple[RequiredSignature, ...] = ()
    """Signatures that the source needs."""


StageRequest = (
    PrepareStageRequest
    | TrainStageRequest
    | MergeStageRequest
    | PublishStageRequest
    | BaseStageRequest
)
_REQUEST: TypeAdapter[StageRequest] = TypeAdapter(
    Annotated[StageRequest, Field(discriminator="stage")]
)


def parse(argument: str) -> StageRequest:
    """Return the request in an argument. Raises ValidationError."""
    return _REQUEST.validate_json(argument, by_alias=True, by_name=False)
