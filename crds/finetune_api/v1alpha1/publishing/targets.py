"""``spec.publish`` of a FineTuneJob: targets outside of the cluster that get the model.

An entry of the list is atomic: it belongs to one layer of the spec as a whole, so that no default
sends a model elsewhere, or a credential to another place than the one that it was configured for.
"""

import re
from collections.abc import Callable
from typing import ClassVar, Literal

from finetune_api.markers import ApiModel, Edit, field
from finetune_api.rules import (
    Rule,
    Statement,
    equals,
    excludes,
    is_set,
    matches,
    requires,
    unique,
    unique_by,
)
from finetune_api.v1alpha1.publishing.places import HuggingFaceTarget, OCITarget, S3Target
from finetune_api.v1alpha1.references import ConfigMapKeyRef, SecretKeyRef, SecretRef
from finetune_api.v1alpha1.sources import HF_SOURCE_PREFIX

When = Literal["Trained", "Merged", "Verified"]

MAX_TARGETS = 8
PLACES = ("oci", "s3", "huggingFace")
"""Fields of a target of which one is set: where the model is published."""
_RESERVED = r"^(sha256-.*|.*-[0-9a-f]{8}-(adapter|merged))$"
"""Tags of signatures and of the immutable names of revisions."""
_RESERVED_TAG = re.compile(_RESERVED)


class PublishTarget(ApiModel):
    """A target outside of the cluster that gets the adapter or the merged model."""

    atomic: ClassVar[bool] = True
    name: str = field(
        'Name of the target. Example: "registry". The name appears in messages and in the status.',
        edit=Edit.PUBLISH,
        max_length=40,
        rules=(
            matches(
                r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                "write the name of a target with lower-case letters, digits and '-'",
            ),
        ),
    )
    what: Literal["adapter", "merged"] = field(
        'The part that is published. "adapter": the LoRA adapter. "merged": the merged model.',
        edit=Edit.PUBLISH,
    )
    when: When | None = field(
        'Earliest time of publishing: after "Trained" or "Merged", or when the verification of '
        'the build has the outcome "Verified". A model that the evaluation gate rejects is never '
        "published.",
        None,
        edit=Edit.PUBLISH,
        builtin="Verified if serving is enabled; otherwise Trained for an adapter and Merged for a "
        "merged model",
    )
    allow: list[Literal["Inconclusive", "Skipped"]] | None = field(
        "Further outcomes of the verification with which the model is published.",
        None,
        edit=Edit.PUBLISH,
        builtin="none",
        max_length=2,
        rules=(unique("allow"),),
    )
    tags: list[str] | None = field(
        "Tags that are moved to the published model, such as latest. A tag is moved only if it "
        "does not exist yet, or if this job published the content that it refers to. "
        "Independently of this field, the name <job>-<revision>-adapter or "
        "<job>-<revision>-<build>-merged is assigned once and never moved.",
        None,
        edit=Edit.PUBLISH,
        builtin="none",
        max_length=8,
        rules=(
            unique("tags"),
            Rule(
                cel=r"self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$') && size(self) <= 128",
                message="write a tag with at most 128 letters, digits, '.', '_' and '-'",
                fails=lambda tag: re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", tag) is None,
                items=True,
            ),
            Rule(
                cel=f"!self.matches('{_RESERVED}')",
                message="tags that begin with sha256- name signatures, and those that end with a "
                "revision and -adapter or -merged name revisions: use another tag",
                fails=lambda tag: _RESERVED_TAG.fullmatch(tag) is not None,
                items=True,
            ),
        ),
    )
    overwrite: bool = field(
        "Move the tags, or the branch of a hub, even if they refer to content that this job did "
        "not publish.",
        False,
        edit=Edit.PUBLISH,
    )
    oci: OCITarget | None = field(
        "A repository in an OCI registry. Mutually exclusive with s3 and huggingFace.",
        None,
        edit=Edit.PUBLISH,
        unset="s3 or huggingFace must be set",
    )
    s3: S3Target | None = field(
        "A prefix in an S3 bucket. Mutually exclusive with oci and huggingFace.",
        None,
        edit=Edit.PUBLISH,
        unset="oci or huggingFace must be set",
    )
    hugging_face: HuggingFaceTarget | None = field(
        "A repository of the Hugging Face Hub. Mutually exclusive with oci and s3.",
        None,
        edit=Edit.PUBLISH,
        unset="oci or s3 must be set",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.oci), has(self.s3), has(self.huggingFace)].filter(p, p).size() == 1",
            message="set exactly one of oci, s3 and huggingFace",
            fails=lambda target: (
                [target.oci, target.s3, target.hugging_face].count(None) != len(PLACES) - 1
            ),
        ),
        excludes(
            equals("what", "merged"),
            equals("when", "Trained"),
            "the merged model does not exist before the merge: set when to Merged or Verified",
        ),
        excludes(
            is_set("allow"),
            equals("when", "Trained") | equals("when", "Merged"),
            "allow widens when: Verified: remove allow, or set when to Verified",
        ),
        requires(is_set("tags"), is_set("oci"), "tags apply only to oci: remove tags"),
        requires(
            equals("overwrite", True),
            is_set("tags") | is_set("huggingFace"),
            "overwrite applies only to tags and to the branch of huggingFace: remove it",
        ),
    )

    @property
    def destination(self) -> str:
        """The place of the target as one text, which limits of the policy are compared with."""
        if self.oci is not None:
            return f"oci://{self.oci.repository}"
        if self.hugging_face is not None:
            return f"{HF_SOURCE_PREFIX}{self.hugging_face.repo}"
        assert self.s3 is not None
        if self.s3.endpoint is None:
            return self.s3.uri
        return f"{self.s3.endpoint}/{self.s3.uri.removeprefix('s3://')}"

    @property
    def moving_names(self) -> tuple[str, ...]:
        """The names at the target that move from one published model to the next."""
        if self.hugging_face is not None:
            return (self.hugging_face.branch,)
        return tuple(self.tags or ())

    @property
    def secret(self) -> SecretRef | SecretKeyRef | None:
        """The Secret with the credentials of the target."""
        if self.hugging_face is not None:
            return self.hugging_face.token_secret_ref
        place = self.oci or self.s3
        assert place is not None
        return place.secret_ref

    @property
    def certificates(self) -> ConfigMapKeyRef | None:
        """The certificates to trust at the target, in addition to the common ones."""
        place = self.oci or self.s3 or self.hugging_face
        assert place is not None
        return place.ca_config_map_ref


UNIQUE_NAMES = unique_by("name", "two targets have the same name: change one of the names")


def rules_of_spec(*, merges_nothing: Statement, serves_nothing: Statement) -> tuple[Rule, ...]:
    """Return the rules that tie the targets to the other parts of a spec."""
    return (
        excludes(
            merges_nothing,
            _any_target(
                "t.what == 'merged' || (has(t.when) && t.when == 'Merged')",
                lambda target: target.what == "merged" or target.when == "Merged",
            ),
            "the job has no merge: set what: adapter and when: Trained or Verified in publish, or "
            "set merge.enabled: true, and serving.mode: merged if the model is served",
        ),
        excludes(
            serves_nothing,
            _any_target(
                "has(t.when) && t.when == 'Verified'", lambda target: target.when == "Verified"
            ),
            "a model that is not served is not verified: set when to Trained or Merged in publish, "
            "or set serving.enabled: true",
        ),
    )


def has_name(name: str) -> Statement:
    """Return the condition that a target has a name."""
    return _any_target(f"t.name == '{name}'", lambda target: target.name == name)


def _any_target(cel: str, holds: Callable[[PublishTarget], bool]) -> Statement:
    """Return the condition that an entry of ``publish`` fulfills another one. cel: for ``t``."""
    return Statement(
        cel=f"(has(self.publish) && self.publish.exists(t, {cel}))",
        holds=lambda spec: any(map(holds, spec.publish or ())),
    )
