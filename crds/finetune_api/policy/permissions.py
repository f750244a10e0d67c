"""What the user may use, as CEL: the API server asks its authorizer. Pure."""

from finetune_api import GROUP
from finetune_api.policy import messages
from finetune_api.policy.fields import PROFILE
from finetune_api.policy.rules import Access
from finetune_api.v1alpha1.profile import PROFILE_KIND, PROFILE_PLURAL

MAY_READ = ("secrets", "configmaps")
"""Resources whose verb ``get`` reveals all that a pod can use of them.

Whoever may create pods can use the others without further permission."""


def may_use(name: str) -> str:
    """Return the CEL of the permission to use a profile. name: CEL of its name."""
    return (
        f"authorizer.group('{GROUP}').resource('{PROFILE_PLURAL}').namespace(request.namespace)"
        f".name({name}).check('use').allowed()"
    )


def not_permitted(name: str) -> str:
    """Return the CEL of the message about a profile that the user may not use."""
    return (
        f"'{messages.dotted(PROFILE)}: user ' + request.userInfo.username + ' has no permission to "
        f"use {PROFILE_KIND} ' + {name} + ' in this namespace. Set a profile that you have "
        f"permission to use, or ask your cluster administrator for the verb use on this "
        f"{PROFILE_KIND}.'"
    )


def may_use_all(kind: Access) -> str:
    """Return whether the user may use all objects of a kind, in CEL.

    The check of a permission costs a third of what an expression may cost, so it comes before
    those of the single names, and each name is checked once.
    """
    if kind in MAY_READ:
        return f"{may(kind, 'get', None)} || {may(kind, 'use', None)}"
    return may("pods", "create", None)


def may(resource: str, verb: str, name: str | None) -> str:
    """Return whether the user has a verb on an object, or on all of a resource, in CEL."""
    named = "" if name is None else f".name({name})"
    return (
        f"authorizer.group('').resource('{resource}').namespace(request.namespace){named}"
        f".check('{verb}').allowed()"
    )
