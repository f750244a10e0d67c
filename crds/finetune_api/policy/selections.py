"""Texts of a spec that a limit applies to, selected in Python and in CEL. Pure.

CEL expressions start at ``root``, a variable that holds a spec; Python starts at a spec as a dict
without nulls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_api.base import Values
from finetune_api.layering import Path, value_at

OPTIONAL = ".?"
LISTS = ("datasets", "publish")
"""Fields with a list of groups."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A list of texts: ``cel`` returns it as an expression, ``texts`` as a value."""

    cel: Callable[[str], str]
    texts: Callable[[Values], list[str]]


def at(root: str, path: Path) -> str:
    """Return the CEL of the optional value at a path."""
    return root + "".join(OPTIONAL + step for step in path)


def text(path: Path) -> Selection:
    """Select a text field."""
    return _of_text(path, lambda v: "true", lambda v: v, lambda value: [value])


def prefixed(path: Path, prefix: str) -> Selection:
    """Select a text field, with a prefix."""
    return _of_text(
        path, lambda v: "true", lambda v: f"'{prefix}' + {v}", lambda value: [prefix + value]
    )


def object_in(path: Path, prefix: str) -> Selection:
    """Select the object that a source such as ``pvc://claim/path`` names, with this prefix."""
    return _of_text(
        path,
        lambda v: f"{v}.startsWith('{prefix}')",
        lambda v: f"{v}.split('/')[2]",
        lambda value: [value.split("/")[2]] if value.startswith(prefix) else [],
    )


def host(path: Path, *prefixes: str) -> Selection:
    """Select the host of a URL with one of the prefixes, without port and final dot."""
    # A host contains no slash, so the appended one marks its end.
    end = "[0].lowerAscii() + '/').replace('./', '').replace('/', '')"
    return _of_text(
        path,
        lambda v: " || ".join(f"{v}.startsWith('{prefix}')" for prefix in prefixes),
        lambda v: f"({v}.split('/')[2].split(':'){end}",
        lambda value: [_host(value)] if value.startswith(prefixes) else [],
    )


def destinations(field: str) -> Selection:
    """Select the places of the targets in a list, as ``PublishTarget.destination`` names them."""

    def select(spec: Values) -> list[str]:
        return [_destination(target) for target in spec.get(field) or ()]

    return Selection(
        cel=lambda root: (
            f"{at(root, (field,))}.orValue([]).map(t, has(t.oci) ? 'oci://' + t.oci.repository : "
            "has(t.huggingFace) ? 'hf://' + t.huggingFace.repo : "
            "!has(t.s3) ? '' : has(t.s3.endpoint) ? t.s3.endpoint + '/' + t.s3.uri.substring(5) : "
            "t.s3.uri)"
        ),
        texts=select,
    )


def keys(*paths: Path) -> Selection:
    """Select the keys of maps."""
    return Selection(
        cel=lambda root: " + ".join(f"{_map(root, path)}.map(k, k)" for path in paths),
        texts=lambda spec: [key for path in paths for key in value_at(spec, path) or {}],
    )


def pairs(path: Path) -> Selection:
    """Select the entries of a map as ``key=value``."""
    return Selection(
        cel=lambda root: f"{_map(root, path)}.map(k, k + '=' + {_map(root, path)}[k])",
        texts=lambda spec: [
            f"{key}={value}" for key, value in (value_at(spec, path) or {}).items()
        ],
    )


def tolerations(path: Path) -> Selection:
    """Select tolerations as ``key=value``, ``key`` (Exists) or an empty text (no key)."""
    return Selection(
        cel=lambda root: (
            f"{at(root, path)}.orValue([]).map(t, t.?key.orValue('') + "
            "(t.?operator.orValue('Equal') == 'Exists' ? '' : '=' + t.?value.orValue('')))"
        ),
        texts=lambda spec: [_toleration(toleration) for toleration in value_at(spec, path) or []],
    )


def _of_text(
    path: Path,
    condition: Callable[[str], str],
    result: Callable[[str], str],
    texts: Callable[[str], list[str]],
) -> Selection:
    """Select a text field, in each entry if the path begins with a list of groups.

    condition and result: CEL for the name of a variable.
    """
    if path[0] in LISTS:
        return _of_list(path, condition, result, texts)

    def select(spec: Values) -> list[str]:
        value = value_at(spec, path)
        return [] if value is None else texts(value)

    chosen = f"[{result('v')}]"
    if condition("v") != "true":
        chosen = f"{condition('v')} ? {chosen} : []"
    return Selection(
        cel=lambda root: f"{at(root, path)}.optMap(v, {chosen}).orValue([])", texts=select
    )


def _of_list(
    path: Path,
    condition: Callable[[str], str],
    result: Callable[[str], str],
    texts: Callable[[str], list[str]],
) -> Selection:
    field, *steps = path
    value = ".".join(("d", *steps))
    is_set = " && ".join(f"has(d.{'.'.join(steps[:depth])})" for depth in range(1, len(steps) + 1))

    def select(spec: Values) -> list[str]:
        values = (value_at(entry, tuple(steps)) for entry in spec.get(field) or ())
        return [selected for value in values if value is not None for selected in texts(value)]

    return Selection(
        cel=lambda root: (
            f"{at(root, (field,))}.orValue([]).filter(d, {is_set} && ({condition(value)}))"
            f".map(d, {result(value)})"
        ),
        texts=select,
    )


def _map(root: str, path: Path) -> str:
    return f"{at(root, path)}.orValue({{}})"


def _host(url: str) -> str:
    return url.split("/")[2].split(":")[0].lower().removesuffix(".")


def _destination(target: Values) -> str:
    repository, uri = value_at(target, ("oci", "repository")), value_at(target, ("s3", "uri"))
    endpoint = value_at(target, ("s3", "endpoint"))
    on_hub = value_at(target, ("huggingFace", "repo"))
    if repository is not None:
        return f"oci://{repository}"
    if on_hub is not None:
        return f"hf://{on_hub}"
    if endpoint is not None:
        return f"{endpoint}/{str(uri).removeprefix('s3://')}"
    return str(uri or "")


def _toleration(value: Values) -> str:
    key: Any = value.get("key", "")
    exists = value.get("operator", "Equal") == "Exists"
    return str(key) if exists else f"{key}={value.get('value', '')}"
