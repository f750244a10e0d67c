"""The limits of profiles as CEL of a ValidatingAdmissionPolicy. Pure.

The binding of the policy selects all profiles, so the API server evaluates its condition once for
each, and the rules only for a profile that applies to the job. The rules are those of
``admission``; a request that does not change the profile checks only what it changes, as there. The
subresource ``scale`` has no profile, so the operator alone checks its replicas.
"""

from finetune_api.policy import admission, messages, permissions
from finetune_api.policy.admission import variable
from finetune_api.policy.fields import (
    API_KEY,
    GPU_SECONDS,
    IDLE_SECONDS,
    PROFILE,
    QUEUE,
    SERVES,
)
from finetune_api.policy.limits import ANYTHING, UNLIMITED, Limits
from finetune_api.policy.rules import NAME_RULES, NameRule
from finetune_api.policy.selections import at
from finetune_api.rules import literal
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION, PROFILE_KIND

PLACEHOLDER = "{profile}"
"""Stands for the name of the profile in messages, until they are CEL."""
NAME, WRITTEN = "params.metadata.name", at("object.spec", PROFILE)
IS_DEFAULT = f"params.metadata.?annotations[?'{DEFAULT_ANNOTATION}'].orValue('') == 'true'"
REMOVED = f"(oldObject != null && {at('oldObject.spec', PROFILE)}.orValue('') == {NAME})"
"""In the condition, where the job has no profile."""
LIMITS, DEFAULTS = "params.spec.?limits", "params.spec.?defaults"
RULES = tuple(rule for rule in NAME_RULES if rule.limit is not None)
OF_MANY = ("podLabels", "nodeSelectors", "tolerations", "gpuStageResources")
"""Limits of the keys of maps, and of entries of lists."""


def conditions() -> list[dict[str, str]]:
    """Return the condition of the policy: whether the profile applies to the job, or did.

    The server prepares its variables, the messages and the audit annotations separately for each
    profile that it evaluates, which takes three times as long as this condition.
    """
    written = f"object.spec.{PROFILE[0]}"
    return [
        {
            "name": "profile-of-the-job",
            "expression": f"has({written}) ? {written} == {NAME} : ({IS_DEFAULT} || {REMOVED})",
        }
    ]


def variables() -> list[dict[str, str]]:
    """Return the variables of the policy.

    The chart defines ``chartDefaulted`` in front of them: required fields that the chart value
    ``defaults`` sets. There are few, because the server prepares each one for each profile.
    """
    most, violations = Limits().max_replicas, _violations()
    violated = " + ".join(f"variables.{violation['name']}" for violation in violations)
    return [
        variable(
            "oldProfile",
            f"oldObject == null ? optional.none() : {at('oldObject.spec', PROFILE)}",
        ),
        variable("update", f"oldObject != null && variables.oldProfile == {WRITTEN}"),
        variable("spec", "dyn(object.spec)"),
        variable("oldSpec", "variables.update ? dyn(oldObject.spec) : dyn({})"),
        variable("allowed", _allowed()),
        variable("maxReplicas", f"{LIMITS}.?maxReplicas.orValue({most})"),
        variable("maxGpuSeconds", f"{LIMITS}.?maxGpuSeconds.orValue(0)"),
        variable("maxSequenceLength", f"{LIMITS}.?maxSequenceLength.orValue(0)"),
        variable("maxIdleSeconds", f"{LIMITS}.?maxIdleSeconds.orValue(0)"),
        variable("requireQueue", f"{LIMITS}.?requireQueue.orValue(false)"),
        variable("requireApiKey", f"{LIMITS}.?requireApiKey.orValue(false)"),
        variable("defaulted", _defaulted()),
        *admission.certificates(),
        *violations,
        variable(
            "removal",
            f"variables.oldProfile.orValue('') == {NAME} && size({LIMITS}.orValue({{}})) > 0 ? "
            f"['{messages.dotted(PROFILE)}: you cannot remove this field, because {PROFILE_KIND} ' "
            f"+ {NAME} + ' limits the job. Set another profile, or create a new job.'] : []",
        ),
        variable(
            "refusals",
            f"{WRITTEN}.hasValue() || {IS_DEFAULT} ? {violated} : variables.removal",
        ),
    ]


def validations() -> list[dict[str, str]]:
    """Return the validation of the policy.

    There is one, because the server evaluates the message of each one, even if it holds.
    """
    # The policy for specs checks the profile that a job names, whether or not it exists.
    may = permissions.may_use(NAME)
    permitted = f"{WRITTEN}.hasValue() || !({IS_DEFAULT}) || variables.update || {may}"
    return [
        {
            "expression": f"size(variables.refusals) == 0 && ({permitted})",
            "messageExpression": f"size(variables.refusals) > 0 ? variables.refusals[0] : "
            f"{permissions.not_permitted(NAME)}",
        },
    ]


def _allowed() -> str:
    """Return the limits on names in the form of the chart value ``policy``."""
    entries = (
        f"'{limit}': {{'allow': {LIMITS}.?{limit}.?allow.orValue(['{ANYTHING}']), "
        f"'deny': {LIMITS}.?{limit}.?deny.orValue([])}}"
        for limit in UNLIMITED
    )
    return f"{{{', '.join(entries)}}}"


def _defaulted() -> str:
    queue, seconds, idle, key = (
        f"variables.chartDefaulted.{field[-1]} || {at(DEFAULTS, field)}.hasValue()"
        for field in (QUEUE, GPU_SECONDS, IDLE_SECONDS, API_KEY)
    )
    return (
        f"{{'{QUEUE[-1]}': {queue} || params.spec.?queueName.hasValue(), "
        f"'{GPU_SECONDS[-1]}': {seconds}, '{IDLE_SECONDS[-1]}': {idle}, "
        f"'{API_KEY[-1]}': {key}, "
        f"'serves': {at(DEFAULTS, SERVES)}.orValue(variables.chartDefaulted.serves) != false}}"
    )


def _violations() -> list[dict[str, str]]:
    """Return the variables with the messages of violated rules.

    The server limits the length and the cost of each expression. A rule for a map or list, which
    may have many names, is the only one of its variable.
    """
    alone = [[_message(rule)] for rule in RULES if rule.limit in OF_MANY]
    others = [_message(rule) for rule in RULES if rule.limit not in OF_MANY]
    others += map(_text, admission.numbers(PLACEHOLDER))
    middle = len(others) // 2
    return [
        variable(f"violations{number}", f"[{', '.join(some)}].filter(text, text != '')")
        for number, some in enumerate([*alone, others[:middle], others[middle:]])
    ]


def _message(rule: NameRule) -> str:
    """Return the CEL of the message about a rule; an empty text if it is not violated."""
    # Both variables of the rule become one expression.
    names, refused = admission.names_of(rule)
    expression = refused["expression"].replace(
        f"variables.{names['name']}", f"({names['expression']})"
    )
    text = _text(admission.allowed(rule, PLACEHOLDER))
    text = text.replace(f"variables.{refused['name']}", "refused")
    return f"[{expression}].map(refused, {text})[0]"


def _text(rule: dict[str, str]) -> str:
    """Return the CEL of the message of a validation, empty if it holds."""
    message = rule.get("messageExpression") or literal(rule["message"])
    named = message.replace(PLACEHOLDER, f"' + {NAME} + '")
    return f"({rule['expression']}) ? '' : ({named})"
