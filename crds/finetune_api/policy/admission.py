"""The rules as CEL of a ValidatingAdmissionPolicy, which the chart installs. Pure.

The chart defines variables in front of these, because only it knows its values: ``allowed`` (the
limits on names), the other limits under their own names, ``defaulted`` (required fields that the
chart value ``defaults`` sets, and whether a job serves that does not say so) and
``checkReferences``. The limits of profiles have a policy of their own (``profile_admission``),
which defines them from its parameter.
Rules apply to the written spec. A request to the subresource ``scale`` counts as a spec that
consists of ``serving.replicas``. A field that an update does not change passes.
"""

import re
from collections.abc import Mapping

from finetune_api.layering import Path
from finetune_api.policy import messages, permissions
from finetune_api.policy.fields import (
    API_KEY,
    GPU_SECONDS,
    IDLE_SECONDS,
    MODE,
    PROFILE,
    QUEUE,
    REPLICAS,
    SEQUENCE_LENGTH,
    SERVES,
    SOURCES,
)
from finetune_api.policy.limits import CPU_STAGE_RESOURCES
from finetune_api.policy.rules import NAME_RULES, RULES_OF_ENDPOINTS, Access, NameRule
from finetune_api.policy.selections import LISTS, at
from finetune_api.rules import literal
from finetune_api.v1alpha1.serving import SHARED

RULES = (*NAME_RULES, *RULES_OF_ENDPOINTS)
NEW, OLD, ALLOWED = "variables.spec", "variables.oldSpec", "variables.allowed"
KINDS: dict[Access, str] = {
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "serviceaccounts": "ServiceAccount",
}
_SERVES = f"{at(NEW, SERVES)}.orValue(variables.defaulted.serves)"
_HAS_OWN_PODS = f"{at(NEW, MODE)}.orValue('') != {literal(SHARED)}"
"""Defaults cannot name an endpoint, so the job itself says that it is shared."""
_TRIGGERS: Mapping[Path, tuple[Path, ...]] = {API_KEY: (SERVES, MODE), IDLE_SECONDS: (MODE,)}
"""Fields that decide whether another one is required."""
_MAY_USE_ALL: dict[Access, str] = {
    "secrets": "mayUseSecrets",
    "configmaps": "mayUseConfigMaps",
    "persistentvolumeclaims": "mayUseClaims",
    "serviceaccounts": "mayUseAccounts",
}
"""Variables by kind."""
MOST_ENTRIES = 16
"""Of a list of the spec."""


def variables() -> list[dict[str, str]]:
    """Return the variables of the policy."""
    return [
        variable("spec", _spec_of("object")),
        variable("update", "oldObject != null"),
        variable("oldSpec", f"variables.update ? {_spec_of('oldObject')} : dyn({{}})"),
        *certificates(),
        *(variable(name, permissions.may_use_all(kind)) for kind, name in _MAY_USE_ALL.items()),
        variable(
            "cpuStageResources",
            f"{{'allow': [{', '.join(map(literal, CPU_STAGE_RESOURCES.allow))}], 'deny': []}}",
        ),
        *(definition for rule in RULES for definition in names_of(rule)),
    ]


def certificates() -> list[dict[str, str]]:
    """Return the variables with the certificates for the hub, which credentials depend on."""
    return [
        variable("hubCertificates", _hub_certificates(NEW)),
        variable("oldHubCertificates", _hub_certificates(OLD)),
    ]


def names_of(rule: NameRule) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables with the names that a rule selects, and those that are not allowed."""
    limit = _limit(rule)
    matching = "'^(?:' + p + ')$'"
    allowed = (
        f"{limit}.allow.exists(p, name.matches({matching})) && "
        f"!{limit}.deny.exists(p, name.matches({matching}))"
    )
    names = f"{_unchanged(rule)} ? [] : {rule.selected.cel(NEW)}"
    return (
        variable(_name("names", rule), names),
        variable(
            _name("refused", rule),
            f"variables.{_name('names', rule)}.filter(name, !({allowed}))",
        ),
    )


def validations() -> list[dict[str, str]]:
    """Return the validations of the policy."""
    return [
        *(allowed(rule) for rule in RULES),
        *(_accessible(rule) for rule in RULES if rule.access is not None),
        *numbers(),
        _required(PROFILE, "requireProfile", "variables.requireProfile", None),
        _permitted(),
    ]


def numbers(profile: str | None = None) -> list[dict[str, str]]:
    """Return the validations of numbers and required fields. profile: see ``messages.origin``."""
    return [
        _at_most(REPLICAS, "maxReplicas", profile, optional=False),
        _at_most(GPU_SECONDS, "maxGpuSeconds", profile, optional=True),
        _at_most(SEQUENCE_LENGTH, "maxSequenceLength", profile, optional=True),
        _at_most(IDLE_SECONDS, "maxIdleSeconds", profile, optional=True),
        _required(GPU_SECONDS, "maxGpuSeconds", "variables.maxGpuSeconds > 0", profile),
        _required(
            IDLE_SECONDS,
            "maxIdleSeconds",
            f"variables.maxIdleSeconds > 0 && {_HAS_OWN_PODS}",
            profile,
        ),
        _required(QUEUE, "requireQueue", "variables.requireQueue", profile),
        _required(
            API_KEY,
            "requireApiKey",
            f"variables.requireApiKey && {_HAS_OWN_PODS} && {_SERVES}",
            profile,
        ),
    ]


def _spec_of(root: str) -> str:
    return (
        "(request.?subResource.orValue('') == 'scale' "
        f"? dyn({{'serving': {{'replicas': {root}.?spec.?replicas.orValue(0)}}}}) "
        f": dyn({root}.spec))"
    )


def allowed(rule: NameRule, profile: str | None = None) -> dict[str, str]:
    """Return the validation that all names are allowed. profile: see ``messages.origin``."""
    refused, limit = f"variables.{_name('refused', rule)}", _limit(rule)
    source = messages.WITHOUT_GPU
    if rule.limit is not None:
        source = messages.origin(rule.limit, profile)
    start, middle, end = messages.refused(rule.field, rule.hint, source)
    patterns = (
        f"(size({limit}.allow) > 0 ? {limit}.allow.join(', ') : 'nothing') + "
        f"(size({limit}.deny) > 0 ? '; except ' + {limit}.deny.join(', ') : '')"
    )
    return {
        "expression": f"size({refused}) == 0",
        "messageExpression": f"{literal(start)} + {refused}.min() + {literal(middle)} + "
        f"{patterns} + {literal(end)}",
    }


def _accessible(rule: NameRule) -> dict[str, str]:
    """Return the validation that the user may use the object that a field names."""
    assert rule.access is not None
    names, kind = f"variables.{_name('names', rule)}", KINDS[rule.access]
    # The verb use has no meaning to Kubernetes itself, so a role can grant it alone.
    verbs = ("get", "use") if rule.access in permissions.MAY_READ else ("use",)
    may = " || ".join(permissions.may(rule.access, verb, "name") for verb in verbs)
    all_usable = f"{names}.all(name, {may})"
    if rule.field[0] in LISTS:
        all_usable = (
            f"size({names}) <= {MOST_ENTRIES} && "
            f"{list(range(MOST_ENTRIES))}.all(i, i >= size({names}) || "
            f"{names}.indexOf({names}[i]) < i || [{names}[i]].all(name, {may}))"
        )
    return {
        "expression": f"!variables.checkReferences || size({names}) == 0 || "
        f"variables.{_MAY_USE_ALL[rule.access]} || {all_usable}",
        "messageExpression": f"{literal(f'{messages.dotted(rule.field)}: user ')} + "
        f"request.userInfo.username + ' has no permission to use {kind} ' + {names}.join(', ') + "
        f"' in this namespace. Set the name of a {kind} that you have permission to use, or ask "
        f"your cluster administrator for the verb {' or '.join(verbs)} on this {kind}.'",
    }


def _permitted() -> dict[str, str]:
    """Return the validation that the user may use the profile that the job names.

    It also applies to a profile that does not exist yet: the job would wait for it.
    """
    name = at(NEW, PROFILE)
    may = permissions.may_use(f"{name}.value()")
    return {
        "expression": f"{_same((PROFILE,))} || !{name}.hasValue() || {may}",
        "messageExpression": permissions.not_permitted(f"{name}.value()"),
    }


def _at_most(field: Path, limit: str, profile: str | None, *, optional: bool) -> dict[str, str]:
    value, most = f"{at(NEW, field)}.orValue(0)", f"variables.{limit}"
    start, middle, end = messages.too_large(field, messages.origin(limit, profile))
    unlimited = f"{most} == 0 || " if optional else ""
    return {
        "expression": f"{_same((field,))} || {unlimited}{value} <= {most}",
        "messageExpression": f"{literal(start)} + string({value}) + {literal(middle)} + "
        f"string({most}) + {literal(end)}",
    }


def _required(field: Path, limit: str, required: str, profile: str | None) -> dict[str, str]:
    defaulted = "" if field == PROFILE else f"variables.defaulted.{field[-1]} || "
    fields: tuple[Path, ...] = (field, *_TRIGGERS.get(field, ()))
    if profile is None and field != PROFILE:
        # The profile that the job names may set the field; only the operator knows its values.
        defaulted += f"{at(NEW, PROFILE)}.hasValue() || "
        fields = (*fields, PROFILE)
    return {
        "expression": f"{_same(fields)} || !({required}) || {defaulted}{at(NEW, field)}.hasValue()",
        "message": messages.missing(field, messages.origin(limit, profile)),
    }


def _hub_certificates(root: str) -> str:
    """Return the references to certificates that the pods trust for the hub, in CEL.

    Those of each hf:// source of a job apply to all its connections.
    """
    groups = ", ".join(at(root, source) for source in SOURCES if source[0] not in LISTS)
    lists = "".join(
        f" + {at(root, source)}.orValue([])" for source in SOURCES if source[0] in LISTS
    )
    return (
        f"([{groups}].filter(e, e.hasValue()).map(e, e.value()){lists})"
        ".filter(e, e.?source.orValue('hf://').startsWith('hf://') && has(e.caConfigMapRef))"
        ".map(e, e.caConfigMapRef)"
    )


def _unchanged(rule: NameRule) -> str:
    same = _same(tuple(dict.fromkeys((rule.field, *rule.triggers))))
    if not rule.sent:
        return same
    return f"({same} && variables.hubCertificates == variables.oldHubCertificates)"


def _same(fields: tuple[Path, ...]) -> str:
    equal = " && ".join(f"{at(NEW, field)} == {at(OLD, field)}" for field in fields)
    return f"(variables.update && {equal})"


def _limit(rule: NameRule) -> str:
    return "variables.cpuStageResources" if rule.limit is None else f"{ALLOWED}.{rule.limit}"


def _name(prefix: str, rule: NameRule) -> str:
    return re.sub(r"\W", "_", "_".join((prefix, *(rule.read or rule.field), rule.limit or "cpu")))


def variable(name: str, expression: str) -> dict[str, str]:
    """Return a variable of a policy."""
    return {"name": name, "expression": expression}
