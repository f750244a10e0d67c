"""``status.revisions[].artifacts``: the inputs and outputs of a revision, by digest."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from finetune_api.base import SHA256, LedgerModel
from finetune_api.v1alpha1.evaluation import HeldOutLosses

MODULE = r"^[A-Za-z0-9_]{1,63}$"
"""Name of a module, which the operator passes to vLLM as an argument: it is no option."""
_PACKAGE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _named(values: dict[str, str]) -> dict[str, str]:
    """Return values by the names of packages. Raise ValueError for other keys: a pod wrote them."""
    if not all(map(_PACKAGE.fullmatch, values)):
        raise ValueError("not all keys are names of packages")
    return values


class PreparedFolders(LedgerModel):
    """The base and the dataset that the prepare stage published."""

    base_commit: str | None = Field(
        None,
        description="Commit of the base model on the Hugging Face Hub. For an https:// source: the "
        "SHA-256 digest in the spec. For an oci:// source: the SHA-256 digest of the manifest of "
        "the image. For other sources: the digest of the list of files.",
    )
    base_bytes: int | None = Field(None, description="Size of the base model in bytes.")
    base_manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the base model on the volume. "
        "The stages train and merge reject any other base model.",
    )
    start_commit: str | None = Field(
        None,
        description="Commit or digest to which the source of training.startFrom was resolved, as "
        "in baseCommit. Present only if the training continues from an adapter.",
    )
    start_digest: str | None = Field(
        None,
        description="Digest of the list of the files, and of their digests, of the adapter that "
        "the training continues from.",
    )
    dataset_manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the prepared dataset on the "
        "volume. The stage train rejects any other dataset.",
    )
    chat_template: str | None = Field(
        None,
        description="Digest of the chat template that replaces the chat template of the base "
        "model. Absent if no template replaces it.",
    )
    effective_template: str | None = Field(None, description="Digest of the chat template in use.")
    dataset_digest: str | None = Field(None, description="Digest of the prepared dataset.")


class TrainArtifacts(LedgerModel):
    """Outputs of the train stage."""

    adapter: str | None = Field(
        None, description="Digest of the list of the adapter's files and their digests."
    )
    adapter_manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the adapter on the volume. The "
        "stage merge and the serving pods reject any other adapter.",
    )
    reference_manifest: str | None = Field(
        None,
        pattern=SHA256,
        description="SHA-256 digest (hex) of the manifest.json of the reference on the volume. "
        "Absent if training could not record the reference.",
    )
    adapted_modules: list[Annotated[str, Field(pattern=MODULE)]] | None = Field(
        None,
        max_length=64,
        description="Names of the modules that the adapter changes, without their path. Example: "
        "q_proj. With serving.mode: adapter, vLLM applies adapters to no other modules.",
    )
    attention: str | None = Field(None, description="Attention kernel used in training.")
    device: str | None = Field(None, description='GPU model used in training, or "cpu".')
    driver: str | None = Field(
        None, description="Version of the NVIDIA driver used in training. Absent without a GPU."
    )
    versions: Annotated[dict[str, str], AfterValidator(_named)] | None = Field(
        None,
        description="Versions of the libraries on which the trained weights depend, by name.",
    )
    reference_seconds: int | None = Field(
        None, description="Time in seconds that the trainer needed to record the reference."
    )
    largest_activation: int | None = Field(
        None,
        description="Largest absolute activation of the tuned model on the rows of the reference, "
        "rounded up. If this value exceeds 16384, merge.dtype: auto selects bfloat16.",
    )
    evaluation: HeldOutLosses | None = Field(
        None,
        description="Held-out losses of the tuned model and of the base model. Present only if "
        "rows were held out.",
    )


class MergedModel(LedgerModel):
    """The model that the merge stage published most recently."""

    merged: str | None = Field(
        None, description="Digest of the list of the merged model's files and their digests."
    )
    merged_dtype: str | None = Field(None, description="Data type of the merged weights.")


class Artifacts(MergedModel, TrainArtifacts, PreparedFolders):
    """Inputs and outputs of a revision, by digest."""
