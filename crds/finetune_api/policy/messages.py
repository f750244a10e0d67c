"""Messages of violated limits, from the same parts in Python and in CEL. Pure."""

from finetune_api.layering import Path

ASK = "Set an allowed value, or ask your cluster administrator to allow this one."
WITHOUT_GPU = "the pods of this stage have no GPU"


def dotted(field: Path) -> str:
    """Return the path of a field as users write it."""
    return ".".join(("spec", *field))


def origin(limit: str) -> str:
    """Return where an administrator sets a limit."""
    return f"chart value policy.{limit}"


def refused(field: Path, hint: str, source: str) -> tuple[str, str, str]:
    """Return the parts of a message around the value and the allowed values."""
    return (
        f'{dotted(field)}: "',
        '" is not allowed. Allowed: ',
        f" ({source}). {hint}{ASK}",
    )


def too_large(field: Path, limit: str) -> tuple[str, str, str]:
    """Return the parts of a message around a number and its limit."""
    return (
        f"{dotted(field)}: ",
        " is not allowed. At most ",
        f" is allowed ({origin(limit)}). {ASK}",
    )


def missing(field: Path, limit: str) -> str:
    """Return the message about a field that a limit requires."""
    return f"{dotted(field)}: set this field, because the {origin(limit)} requires it."
