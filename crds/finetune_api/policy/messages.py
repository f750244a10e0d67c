"""Messages of violated limits, from the same parts in Python and in CEL. Pure."""

from finetune_api.layering import Path

ASK = "Set an allowed value, or ask your cluster administrator to allow this one."
WITHOUT_GPU = "the pods of this stage have no GPU"


def dotted(field: Path) -> str:
    """Return the path of a field as users write it."""
    return ".".join(("spec", *field))


def origin(limit: str, profile: str | None = None) -> str:
    """Return where an administrator sets a limit: in a profile, or else in the chart."""
    if profile is None:
        return f"chart value policy.{limit}"
    return f"limits.{limit} of FineTuneProfile {profile}"


def refused(field: Path, hint: str, source: str) -> tuple[str, str, str]:
    """Return the parts of a message around the value and the allowed values. source: ``origin``."""
    return (
        f'{dotted(field)}: "',
        '" is not allowed. Allowed: ',
        f" ({source}). {hint}{ASK}",
    )


def too_large(field: Path, source: str) -> tuple[str, str, str]:
    """Return the parts of a message around a number and its limit. source: ``origin``."""
    return (
        f"{dotted(field)}: ",
        " is not allowed. At most ",
        f" is allowed ({source}). {ASK}",
    )


def missing(field: Path, source: str) -> str:
    """Return the message about a field that a limit requires. source: ``origin``."""
    return f"{dotted(field)}: set this field, because the {source} requires it."
