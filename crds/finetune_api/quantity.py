"""Kubernetes quantities such as ``500m``, ``16Gi`` or ``2``: how they are checked and compared."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

MESSAGE = "write a quantity such as 500m, 2 or 16Gi (Gi and Mi, not GB and MB)"
# Not the conversion to text and a pattern: the API server takes an int-or-string for a string of
# megabytes when it estimates what a rule costs, and refuses the CRD.
CEL = "type(self) == string ? isQuantity(self) && !self.startsWith('-') : self >= 0"

_GRAMMAR = re.compile(
    r"\+?(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]+))?"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def amount(text: str) -> Decimal:
    """Return the number that a quantity stands for. Raises ValueError where it is none."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError(MESSAGE)
    number = Decimal(match["number"])
    suffix = match["suffix"] or ""
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    return number.scaleb(_DECIMAL.get(suffix, int(match["exponent"] or 0)))


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked(text: str) -> str:
    amount(text)
    return text


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_checked),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [{"rule": CEL, "message": MESSAGE}],
        }
    ),
]
"""A quantity that is not negative, kept as text."""
