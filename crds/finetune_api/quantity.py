"""Validate and compare Kubernetes quantities such as ``500m``, ``16Gi`` or ``2``."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

MESSAGE = "write a quantity such as 500m, 2 or 16Gi; use Gi and Mi, not GB and MB"
# The rule has no pattern and no conversion to text: the API server's cost estimate assumes that an
# int-or-string may be a string of megabytes, and would reject the CRD.
CEL = "type(self) == string ? isQuantity(self) && !self.startsWith('-') : self >= 0"
# isQuantity accepts "Gi" as 0; this pattern does not. See ``comparable`` for why it excludes
# exponents too.
SHAPE = "^[-+.]{0,2}[0-9][0-9.]{0,22}[A-DF-Za-df-z]{0,2}$"
MAX_LENGTH = 27

_SHAPE = re.compile(SHAPE)
_GRAMMAR = re.compile(r"\+?(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<suffix>[numkMGTP]|[KMGTP]i)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}


def split(text: str) -> tuple[Decimal, str]:
    """Return number and suffix of a quantity. Raise ValueError if ``text`` is not one."""
    match = _GRAMMAR.fullmatch(text)
    if match is None or _SHAPE.fullmatch(text) is None:
        raise ValueError(MESSAGE)
    return Decimal(match["number"]), match["suffix"] or ""


def amount(text: str) -> Decimal:
    """Return the number that a quantity stands for. Raise ValueError if ``text`` is not one."""
    number, suffix = split(text)
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    return number.scaleb(_DECIMAL[suffix]) if suffix else number


def comparable(*values: str) -> str:
    """Return the CEL that is true if ``quantity()`` can safely be called on the values.

    Comparing ``1e99999999999`` with anything keeps the API server busy for minutes, and the server
    evaluates rules even if the schema's pattern has rejected the value already.
    """
    return " && ".join(
        f"isQuantity(string({value})) && !string({value}).lowerAscii().contains('e')"
        for value in values
    )


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
            "pattern": SHAPE,
            "maxLength": MAX_LENGTH,
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [{"rule": CEL, "message": MESSAGE}],
        }
    ),
]
"""A non-negative quantity, stored as text."""
