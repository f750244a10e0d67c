"""The rules of the policy: which limit applies to which fields of a spec. Pure.

Python checks the resolved spec (``check``), and the API server checks the written one
(``admission``). Both read this table.
"""

from dataclasses import dataclass, replace
from typing import Literal

from finetune_api.layering import Path
from finetune_api.policy import selections
from finetune_api.policy.fields import (
    ACCOUNT,
    API_KEY,
    CACHE,
    ENDPOINT_KEYS,
    IMAGES,
    LABELS,
    MLFLOW,
    PUBLISH,
    SOURCES,
    START_FROM,
)
from finetune_api.policy.selections import Selection
from finetune_api.v1alpha1.publishing.tracking import PREFIX as MLFLOW_PREFIX
from finetune_api.v1alpha1.sources import OCI_SOURCE_PREFIX

Access = Literal["secrets", "configmaps", "persistentvolumeclaims", "serviceaccounts"]


@dataclass(frozen=True, kw_only=True)
class NameRule:
    """The texts of a field must match the patterns of a limit."""

    field: Path
    """Field that messages name."""

    read: Path = ()
    """Field that has the texts, if it is another one: the field of each entry of a list."""

    limit: str | None
    """Name in ``Limits``; None for the fixed list of stages without a GPU."""

    selected: Selection
    triggers: tuple[Path, ...] = ()
    """Further fields that decide what the texts give access to; a change repeats the check."""

    sent: bool = False
    """Whether a pod sends it to a server. All connections of a pod trust the certificates of the
    hub, which any source of a job can add, so a change of these repeats the check."""

    access: Access | None = None
    """Resource that the texts name: the user who writes the field needs access to it."""

    serving: bool = False
    """Whether the field affects serving pods."""

    hint: str = ""
    """A sentence about a usual mistake, with a space at its end."""


KEYLESS = 'The empty text "" is a toleration without a key, which tolerates every taint. '
OWN_DOMAIN = (
    "Other workloads can select pods by this label: use the domain of your organization as the "
    "prefix of the key, such as example.com/team. "
)


def _destination(source: Path) -> tuple[Path, ...]:
    """Return the fields that decide where a credential of a source is sent."""
    if source[0] in selections.LISTS:
        # An entry has no fixed place in a list.
        return (source,)
    fields: tuple[Path, ...] = (
        ("source",),
        ("tokenSecretRef",),
        ("caConfigMapRef",),
        ("s3", "endpoint"),
        ("s3", "secretRef"),
    )
    if source in IMAGES:
        fields = (*fields, ("oci", "secretRef"))
    if source == START_FROM:
        # The other job decides where its adapter is.
        fields = (*fields, ("job",))
    return tuple((*source, *field) for field in fields)


def _text(field: Path, limit: str, *, serving: bool = False) -> NameRule:
    return NameRule(field=field, limit=limit, selected=selections.text(field), serving=serving)


def _of_source(source: Path) -> tuple[NameRule, ...]:
    """Return the rules of a model or dataset. Messages about a list name the whole list."""
    rules = _of_each(source)
    if source[0] not in selections.LISTS:
        return rules
    return tuple(replace(rule, field=source, read=rule.field) for rule in rules)


def _of_each(source: Path) -> tuple[NameRule, ...]:
    place = (*source, "source")
    token, secret = (*source, "tokenSecretRef"), (*source, "s3", "secretRef")
    authority, endpoint = (*source, "caConfigMapRef"), (*source, "s3", "endpoint")
    triggers = _destination(source)
    image: tuple[Path, ...] = ((*source, "oci", "secretRef"),) if source in IMAGES else ()
    registries = (OCI_SOURCE_PREFIX,) if source in IMAGES else ()
    rows = (
        NameRule(
            field=place,
            limit="configMaps",
            access="configmaps",
            selected=selections.object_in(place, "configmap://"),
        ),
    )
    return (
        _text(place, "sources"),
        NameRule(
            field=place, limit="hosts", selected=selections.host(place, "https://", *registries)
        ),
        NameRule(
            field=endpoint,
            limit="hosts",
            selected=selections.host(endpoint, "https://", "http://"),
        ),
        NameRule(
            field=place,
            limit="claims",
            access="persistentvolumeclaims",
            selected=selections.object_in(place, "pvc://"),
        ),
        *(() if source in IMAGES else rows),
        *(
            NameRule(
                field=reference,
                limit=limit,
                access=access,
                selected=selections.text((*reference, "name")),
                triggers=triggers,
                sent=reference != authority,
            )
            for reference, limit, access in _references((token, secret, *image), authority)
        ),
    )


def _references(secrets: tuple[Path, ...], authority: Path) -> tuple[tuple[Path, str, Access], ...]:
    return (
        *((secret, "secrets", "secrets") for secret in secrets),
        (authority, "configMaps", "configmaps"),
    )


def _of_placement(placement: Path) -> tuple[NameRule, ...]:
    selector, tolerations = (*placement, "nodeSelector"), (*placement, "tolerations")
    return (
        NameRule(
            field=selector,
            limit="nodeSelectors",
            selected=selections.pairs(selector),
            serving=True,
        ),
        NameRule(
            field=tolerations,
            limit="tolerations",
            selected=selections.tolerations(tolerations),
            serving=True,
            hint=KEYLESS,
        ),
    )


def _of_resources(stage: str, limit: str | None) -> NameRule:
    field = ("resources", stage)
    return NameRule(
        field=field,
        limit=limit,
        selected=selections.keys((*field, "requests"), (*field, "limits")),
        serving=stage == "serve",
    )


def _of_targets() -> tuple[NameRule, ...]:
    """Return the rules of ``publish``. Messages name the whole list."""
    certificates: tuple[str, str, Access, bool] = (
        "caConfigMapRef",
        "configMaps",
        "configmaps",
        False,
    )
    references: tuple[tuple[str, tuple[str, str, Access, bool]], ...] = (
        *(
            (kind, reference)
            for kind in ("oci", "s3")
            for reference in (("secretRef", "secrets", "secrets", True), certificates)
        ),
        ("huggingFace", ("tokenSecretRef", "secrets", "secrets", True)),
        ("huggingFace", certificates),
    )
    return (
        NameRule(
            field=PUBLISH,
            limit="publishDestinations",
            selected=selections.destinations(PUBLISH[0]),
        ),
        *(
            NameRule(
                field=PUBLISH,
                read=(*PUBLISH, kind, reference),
                limit=limit,
                access=access,
                selected=selections.text((*PUBLISH, kind, reference, "name")),
                sent=sent,
            )
            for kind, (reference, limit, access, sent) in references
        ),
    )


def _of_tracking() -> tuple[NameRule, ...]:
    uri = (*MLFLOW, "uri")
    triggers = ((*MLFLOW, "uri"), (*MLFLOW, "caConfigMapRef"))
    references: tuple[tuple[str, str, Access, bool], ...] = (
        ("secretRef", "secrets", "secrets", True),
        ("caConfigMapRef", "configMaps", "configmaps", False),
    )
    return (
        NameRule(
            field=uri,
            limit="publishDestinations",
            selected=selections.prefixed(uri, MLFLOW_PREFIX),
        ),
        *(
            NameRule(
                field=(*MLFLOW, reference),
                limit=limit,
                access=access,
                selected=selections.text((*MLFLOW, reference, "name")),
                triggers=triggers,
                sent=sent,
            )
            for reference, limit, access, sent in references
        ),
    )


NAME_RULES: tuple[NameRule, ...] = (
    *(rule for source in SOURCES for rule in _of_source(source)),
    NameRule(
        field=CACHE,
        limit="claims",
        access="persistentvolumeclaims",
        selected=selections.text((*CACHE, "claimName")),
    ),
    NameRule(
        field=API_KEY,
        limit="secrets",
        access="secrets",
        selected=selections.text((*API_KEY, "name")),
        serving=True,
    ),
    NameRule(
        field=ACCOUNT,
        limit="serviceAccounts",
        access="serviceaccounts",
        selected=selections.text(ACCOUNT),
        triggers=(*(field for source in SOURCES for field in _destination(source)), PUBLISH),
    ),
    _text(("priorityClassName",), "priorityClasses", serving=True),
    _text(("workloadPriorityClassName",), "workloadPriorityClasses"),
    _text(("queueName",), "queues"),
    *_of_placement(("placement",)),
    *_of_placement(("serving", "placement")),
    _of_resources("prepare", None),
    _of_resources("train", "gpuStageResources"),
    _of_resources("merge", None),
    _of_resources("publish", None),
    *_of_targets(),
    *_of_tracking(),
    _of_resources("serve", "gpuStageResources"),
    NameRule(
        field=LABELS,
        limit="podLabels",
        selected=selections.keys(LABELS),
        serving=True,
        hint=OWN_DOMAIN,
    ),
)

RULES_OF_ENDPOINTS: tuple[NameRule, ...] = (
    NameRule(
        field=ENDPOINT_KEYS,
        limit="secrets",
        access="secrets",
        selected=selections.text((*ENDPOINT_KEYS, "name")),
    ),
)
"""For fields that only a FineTuneEndpoint has. The operator checks them as those of a job."""
