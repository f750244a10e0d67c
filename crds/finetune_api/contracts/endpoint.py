"""What a shared endpoint should serve, and what it serves: the contract of operator and gate.

The operator writes the *wanted set* and signs it; the gate of the endpoint's pod serves no other
names. Signature and form are those of ``attestation``, with a payload type of their own, so that no
signature of another kind is valid for a wanted set. A set is for one endpoint, which its uid names,
and a set with a lower sequence number than an accepted one is refused: a copy of an earlier set
restores nothing.

The gate reports a status. Every text in it is of the gate or of the wanted set, never of a request.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from finetune_api.base import SHA256, CamelModel, StatusModel
from finetune_api.v1alpha1.endpoints.names import PATH_BELOW_CLAIM, PUBLIC_NAME

CONTRACT_VERSION: Literal[1] = 1
PAYLOAD_TYPE = "application/vnd.finetune.wanted-set.v1+json"
LONGEST = 1 << 20
"""Bytes of a wanted set, the limit of a ConfigMap."""
PREPARED = "prepared"
"""Folder on the endpoint's claim that the pod which prepares the base mounts. It has access to the
network and credentials of the source, so it sees no adapter."""
BASE = f"{PREPARED}/base"
"""Folder on the endpoint's claim with the base that vLLM loads."""
ADAPTERS = "jobs"
"""Folder on the endpoint's claim with a folder for each job."""
LONGEST_MESSAGE = 1024
"""Characters of the message of a name in the status: 512 names fit into the limit of the reader."""
LONGEST_TEMPLATE = 1 << 16
"""Bytes of a chat template."""
BASE_FILES_FACT = "baseFiles"
"""Fact in the manifests of an adapter and of the base of an endpoint: SHA-256 (hex) of the files of
the published base, by name. The manifest of a base itself differs from job to job."""
BASE_SCALES = "quantization.scales"
"""File in the dequantized base of an endpoint: the scales of its 4-bit weights. It is a safetensors
file with another name, because vLLM would load it as weights."""


def published_root(job_uid: str) -> str:
    """Return the folder on the endpoint's claim that the publish pods of a job mount."""
    return f"{ADAPTERS}/{job_uid}"


def published_path(job_uid: str, adapter: str) -> str:
    """Return the folder on the endpoint's claim with ``adapter/`` and ``reference/`` of a revision.

    adapter: SHA-256 (hex) of ``adapter/manifest.json``, so that no folder ever has other content.
    """
    return f"{published_root(job_uid)}/{adapter}"


def source_digest(files: Mapping[str, str]) -> str:
    """Return what identifies a published base. files: SHA-256 (hex) of its files by name.

    The manifest of a base has facts of its job, so it differs where the files are equal.
    """
    return _digest(files)


def codes_digest(modules: Mapping[str, str]) -> str:
    """Return what identifies the 4-bit weights of a base. modules: SHA-256 (hex) of their codes."""
    return _digest(modules)


def _digest(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


State = Literal["Waiting", "Full", "Loading", "Proving", "Serving", "Failed"]
"""Why a name answers or not. ``Full``: all places for adapters are taken."""
Digest = Annotated[str, Field(pattern=SHA256)]


class WantedName(CamelModel):
    """A public name, and the adapter that it must answer with."""

    name: str = Field(pattern=PUBLIC_NAME)
    """Value of ``model`` in requests."""
    job: str
    revision: Digest
    adapter: Digest
    """SHA-256 of ``adapter/manifest.json``, from the ledger."""
    reference: Digest | None = None
    """SHA-256 of ``reference/manifest.json``; None if the training recorded no reference, so that
    the name never answers."""
    path: str = Field(pattern=PATH_BELOW_CLAIM)
    """Folder on the endpoint's claim that has ``adapter/`` and ``reference/``."""
    template: Digest | None = None
    """SHA-256 of ``adapter/chat_template.jinja``; None if the base's own template is used."""
    keys: tuple[Digest, ...] | None = None
    """SHA-256 of each API key that may use the name; None: requests need no key."""
    allow_inconclusive: bool = False
    """Whether the name answers with an adapter whose proof is ``Inconclusive``."""
    attempt: int = Field(1, ge=1)
    """Attempt of the job to serve the adapter. An adapter that failed is tried again in another."""


class WantedSet(CamelModel):
    """All names of an endpoint. A name that is not listed stops answering."""

    contract: Literal[1] = CONTRACT_VERSION
    endpoint: str = Field(min_length=1)
    """UID of the FineTuneEndpoint."""
    sequence: int = Field(ge=1)
    names: tuple[WantedName, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [wanted.name for wanted in self.names]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names lists {min(twice)} more than once: list each name once")
        return self

    def payload(self) -> bytes:
        """Return the bytes to sign."""
        return self.model_dump_json(exclude_defaults=True).encode()


Word = Annotated[str, Field(pattern=r"^[-A-Za-z0-9._:]{1,128}$")]
"""A text of a pod that the status of the endpoint repeats as it is."""


class NameStatus(StatusModel):
    """State of one name, and the proof of the adapter that it answers with."""

    name: str
    job: str
    revision: str
    adapter: str
    attempt: int = 1
    """As in the wanted set, both."""
    state: State
    message: str = ""
    """Why the name is not in the state ``Serving``, or the numbers of the proof."""
    answers: Word | None = None
    """``adapter`` that the name answers with, which is an earlier one during a rollout. None: the
    name does not answer."""
    boot: Word | None = None
    """Start of the engine in which the proof was made."""
    outcome: Literal["Verified", "Inconclusive"] | None = None
    distance: float | None = None
    """In nats, as in ``status.verification`` of a job; so are the next two."""
    tolerance: float | None = None
    smallest_fault: float | None = None
    different_blocks: int | None = Field(None, ge=0, le=1 << 53)
    """Blocks of 64 weights of the base whose scale differs from that of the training. It may, in
    the last bits, if the base was quantized on another device."""
    requests: int = 0
    """Requests since the gate started; so are the tokens."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class EndpointStatus(StatusModel):
    """State of an endpoint's pod."""

    contract: Literal[1] = CONTRACT_VERSION
    endpoint: str
    pod: str = ""
    """UID of the pod: addresses are reused, and the uid shows which pod answered."""
    sequence: int | None = None
    """Of the wanted set in use; None before the first one."""
    refused: str | None = None
    """Why the last wanted set was refused; None if it was not."""
    boot: Word | None = None
    """The running start of the engine; None while it is down."""
    self_test: str = ""
    """Result of the comparison of the base while an adapter decodes; empty before the first one."""
    self_test_failed: bool = False
    """Whether it differs. No name answers then, until the engine restarts."""
    free: int = 0
    """Further adapters that can be loaded."""
    names: tuple[NameStatus, ...] = ()
