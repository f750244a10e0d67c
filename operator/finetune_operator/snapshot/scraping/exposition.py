"""Parses the Prometheus text format, as far as the pods of a job need it. Pure.

The text comes from a pod and is not trusted. A line is a series only if it has one of these forms,
in ASCII: ``name number`` or ``name{label="…"} number``, with a name that starts with ``finetune_``
and the label ``uid``, ``outcome``, ``phase`` or ``card``. All other lines are ignored: comments,
other labels, timestamps, and numbers that are not between 0 and 2⁵³. The time is linear in the
length of the text.

Addresses of deleted pods are assigned to other pods, possibly before the deletion is observed.
Every pod of a job therefore publishes its uid, and a text without the expected uid is discarded.
"""

import re
from collections.abc import Mapping

MAX_LINE_BYTES = 1 << 10
MAX_NUMBER = 2.0**53
"""Integers up to here are exact in JSON and in a float."""
_SERIES = re.compile(
    rb"^(finetune_[a-z_]{1,48})"
    rb'(?:\{(?:uid|outcome|phase|card)="([A-Za-z0-9._-]{1,64})"\})?'
    rb" ([0-9]{1,24}(?:\.[0-9]{1,24})?(?:e[+-]?[0-9]{1,3})?)$",
    re.MULTILINE,
)
_IDENTITY = "finetune_pod_info"

Series = Mapping[tuple[str, str], float]
"""Values by name and label value; the label value is empty without a label."""


def parse(text: bytes, pod_uid: str) -> Series | None:
    """Return the series of the pod with this uid.

    Return None if the text belongs to another pod or to an unknown one, is truncated, or contains a
    line longer than ``MAX_LINE_BYTES``.
    """
    if not text.endswith(b"\n") or max(map(len, text.split(b"\n"))) > MAX_LINE_BYTES:
        return None
    series: dict[tuple[str, str], float] = {}
    for name, label, number in _SERIES.findall(text):
        value = float(number)
        if value <= MAX_NUMBER:
            series[name.decode(), label.decode()] = value
    if {label for name, label in series if name == _IDENTITY} != {pod_uid}:
        return None
    return series
