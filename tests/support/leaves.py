"""Every field of the spec, found by walking the models, with another valid value for each.

A new field is tested without a new test. If no value can be derived from its type, or if it needs
other fields, add it to ``CHANGES``.
"""

import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from finetune_api.markers import ApiModel, Edit, extra_of
from finetune_api.v1alpha1.spec import FineTuneJobSpec

Spec = dict[str, Any]

ALPACA: Spec = {
    "model": {"source": "hf://org/model"},
    "dataset": {"source": "hf://org/data", "format": "alpaca"},
}
EVALUATED: Spec = {
    **ALPACA,
    "evaluation": {"dataset": {"source": "hf://org/test", "format": "alpaca"}},
}


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A field that holds a value, and the effect of changing it."""

    path: tuple[str, ...]
    edit: Edit
    info: FieldInfo

    def __str__(self) -> str:
        return ".".join(self.path)


def leaves(
    model: type[ApiModel] = FineTuneJobSpec, path: tuple[str, ...] = (), edit: Edit | None = None
) -> Iterator[Leaf]:
    """Yield the leaves of a model. edit: that of the field around it, if the model is atomic."""
    for name, info in model.model_fields.items():
        here = (*path, info.alias or name)
        own = edit or extra_of(info).edit
        group = _group(info.annotation)
        if group is None:
            yield Leaf(path=here, edit=own, info=info)
        else:
            yield from leaves(group, here, own if group.atomic else None)


def _group(annotation: Any) -> type[ApiModel] | None:
    for kind in _alternatives(annotation):
        if get_origin(kind) is list:
            return _group(*get_args(kind))
        if isinstance(kind, type) and issubclass(kind, ApiModel):
            return kind
    return None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for kind in get_args(annotation) if kind is not type(None))
    return (annotation,)


def path_of(leaf: Leaf) -> str:
    """Return the path of a field in schema and reference, with ``[]`` after a list of groups."""
    path = f"spec.{leaf}".replace("tolerations.", "tolerations[].")
    return re.sub(r"^spec\.(datasets|publish)\.", r"spec.\1[].", path)


def other_value(leaf: Leaf) -> Any:
    """Return a valid value other than the built-in one."""
    (kind,) = _alternatives(leaf.info.annotation)
    default = leaf.info.default
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != default)
    if get_origin(kind) is list and get_origin(*get_args(kind)) is Literal:
        return list(get_args(*get_args(kind))[:1])
    if kind is bool:
        return not default
    if kind in (int, float):
        return _number(kind, default, leaf.info.metadata)
    return {str: "another", list[str]: ["another"], dict[str, str]: {"another": "value"}}[kind]


def _number(kind: type, default: Any, bounds: list[Any]) -> Any:
    low, high = 0.0, 1e9
    for bound in bounds:
        if isinstance(bound, Ge | Gt):
            low = float(str(bound.ge if isinstance(bound, Ge) else bound.gt))
        if isinstance(bound, Le | Lt):
            high = float(str(bound.le if isinstance(bound, Le) else bound.lt))
    written = default if isinstance(default, int | float) else low
    step = 1 if kind is int else min(0.1, (high - low) / 100)
    return kind(written + step if written + step < high else written - step)


def nested(path: tuple[str, ...], value: Any) -> Spec:
    """Return a spec with a value at ``path`` only."""
    for step in reversed(path):
        value = {step: value}
    return dict(value)


def merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Spec:
    """Return ``upper`` over ``lower``, key by key."""
    result = dict(lower)
    for key, value in upper.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merged(below, value)
        result[key] = value
    return result


@dataclass(frozen=True, kw_only=True)
class Change:
    """The written fields before and after a change; both are layered over ``ALPACA``."""

    before: Spec
    after: Spec


def _toleration(**fields: Any) -> Spec:
    return {"placement": {"tolerations": [{"operator": "Exists", "key": "pool", **fields}]}}


def _tolerations(into: Callable[[Spec], Spec], prefix: str = "") -> Iterator[tuple[str, Change]]:
    """Yield a change of each field of a toleration. into: puts a placement into a spec."""
    no_execute = {"effect": "NoExecute"}
    edits: dict[str, tuple[Spec, Spec]] = {
        "key": ({}, {"key": "other"}),
        "operator": ({}, {"operator": "Equal"}),
        "value": ({"operator": "Equal"}, {"operator": "Equal", "value": "tuning"}),
        "effect": ({}, {"effect": "NoSchedule"}),
        "tolerationSeconds": (no_execute, {**no_execute, "tolerationSeconds": 60}),
    }
    for name, (before, after) in edits.items():
        yield (
            f"{prefix}placement.tolerations.{name}",
            Change(before=into(_toleration(**before)), after=into(_toleration(**after))),
        )


def _serving(**fields: Any) -> Spec:
    return {"serving": fields}


def _dataset(**fields: Any) -> Spec:
    return {"dataset": fields}


_SOURCE = {"name": "hf", "key": "token"}
HTTPS = "https://models.example.com/llama/SHA256SUMS"
S3 = "s3://bucket/path"
OCI = "oci://registry.example.com/models/a:latest"


def _published(place: Spec | None = None, **fields: Any) -> Spec:
    """Return a spec with one target of ``publish``, in a registry unless another place is given."""
    oci = {"oci": {"repository": "registry.example.com/models/a"}}
    return {"publish": [{"name": "target", "what": "adapter", **(place or oci), **fields}]}


def _published_in(kind: str, name: str, value: Any) -> Change:
    """Return the change of a field of the place of a target."""
    places: Spec = {
        "oci": {"repository": "registry.example.com/models/a"},
        "s3": {"uri": "s3://models/a"},
        "huggingFace": {"repo": "acme/a"},
    }
    field, *inner = name.split(".")
    first: Spec = {
        "caConfigMapRef": {"name": "ca"},
        "secretRef": {"name": "keys"},
        "tokenSecretRef": {"name": "keys"},
    }
    before = {**places[kind], **({field: first[field]} if inner else {})}
    after = {**before, field: {**before[field], inner[0]: value} if inner else value}
    return Change(before=_published({kind: before}), after=_published({kind: after}))


def _tracked(**fields: Any) -> Change:
    """Return the change of fields of the tracking server."""
    first: Spec = {"uri": "https://mlflow.example.com"}
    return Change(
        before={"tracking": {"mlflow": first}}, after={"tracking": {"mlflow": {**first, **fields}}}
    )


CHANGES: dict[str, Change] = {
    "runPolicy.maxCost": Change(before={}, after={"runPolicy": {"maxCost": "12.50"}}),
    "publish.name": Change(before=_published(), after=_published(name="another")),
    "publish.what": Change(before=_published(), after=_published(what="merged")),
    "publish.when": Change(before=_published(), after=_published(when="Trained")),
    "publish.allow": Change(before=_published(), after=_published(allow=["Skipped"])),
    "publish.tags": Change(before=_published(), after=_published(tags=["latest"])),
    "publish.overwrite": Change(
        before=_published(tags=["a"]), after=_published(tags=["a"], overwrite=True)
    ),
    "publish.oci.repository": _published_in("oci", "repository", "registry.example.com/models/b"),
    "publish.s3.uri": _published_in("s3", "uri", "s3://models/b"),
    "publish.s3.endpoint": _published_in("s3", "endpoint", "https://minio:9000"),
    "publish.s3.region": _published_in("s3", "region", "eu-central-1"),
    **{
        f"publish.{kind}.{reference}": _published_in(kind, reference, "another")
        for kind in ("oci", "s3")
        for reference in ("secretRef.name", "caConfigMapRef.name", "caConfigMapRef.key")
    },
    "tracking.mlflow.uri": _tracked(uri="https://other.example.com"),
    "tracking.mlflow.experiment": _tracked(experiment="another"),
    "tracking.mlflow.registeredModel": Change(
        before=merged(_published(), _tracked().after),
        after=merged(_published(), _tracked(registeredModel="another").after),
    ),
    **{
        f"tracking.mlflow.{reference}.{name}": Change(
            before=_tracked(**{reference: {"name": "first"}}).after,
            after=_tracked(**{reference: {"name": "first", name: "another"}}).after,
        )
        for reference, name in (
            ("secretRef", "name"),
            ("caConfigMapRef", "name"),
            ("caConfigMapRef", "key"),
        )
    },
    "publish.huggingFace.repo": _published_in("huggingFace", "repo", "acme/b"),
    "publish.huggingFace.private": _published_in("huggingFace", "private", False),
    "publish.huggingFace.branch": _published_in("huggingFace", "branch", "tuned"),
    **{
        f"publish.huggingFace.{reference}.{name}": _published_in(
            "huggingFace", f"{reference}.{name}", "another"
        )
        for reference in ("tokenSecretRef", "caConfigMapRef")
        for name in ("name", "key")
    },
    "serving.endpointRef.name": Change(
        before=_serving(mode="shared", endpointRef={"name": "first"}),
        after=_serving(mode="shared", endpointRef={"name": "another"}),
    ),
    "model.source": Change(before={}, after={"model": {"source": "hf://org/another"}}),
    "dataset.source": Change(before={}, after=_dataset(source="hf://org/another")),
    "dataset.format": Change(before={}, after=_dataset(format="messages")),
    "dataset.columns.messages": Change(
        before=_dataset(format="messages"),
        after=_dataset(format="messages", columns={"messages": "chat"}),
    ),
    "dataset.columns.tools": Change(
        before=_dataset(format="messages"),
        after=_dataset(format="messages", columns={"tools": "functions"}),
    ),
    "dataset.mapping.role": Change(
        before=_dataset(format="sharegpt"),
        after=_dataset(format="sharegpt", mapping={"role": "author"}),
    ),
    "dataset.mapping.content": Change(
        before=_dataset(format="sharegpt"),
        after=_dataset(format="sharegpt", mapping={"content": "text"}),
    ),
    "dataset.mapping.roles": Change(
        before=_dataset(format="messages"),
        after=_dataset(format="messages", mapping={"roles": {"customer": "user"}}),
    ),
    "dataset.columns.prompt": Change(
        before=_dataset(format="prompt-completion"),
        after=_dataset(format="prompt-completion", columns={"prompt": "question"}),
    ),
    "dataset.columns.completion": Change(
        before=_dataset(format="prompt-completion"),
        after=_dataset(format="prompt-completion", columns={"completion": "answer"}),
    ),
    "dataset.columns.text": Change(
        before=_dataset(format="text"), after=_dataset(format="text", columns={"text": "body"})
    ),
    **{
        f"{group}.tokenSecretRef.{name}": Change(
            before={group: {"tokenSecretRef": _SOURCE}},
            after={group: {"tokenSecretRef": {**_SOURCE, name: "another"}}},
        )
        for group in ("model", "dataset")
        for name in ("name", "key")
    },
    **{
        f"{group}.sha256": Change(
            before={group: {"source": HTTPS, "sha256": "a" * 64}},
            after={group: {"source": HTTPS, "sha256": "b" * 64}},
        )
        for group in ("model", "dataset")
    },
    **{
        f"{group}.caConfigMapRef.{name}": Change(
            before={group: {"source": S3, "caConfigMapRef": {"name": "ca"}}},
            after={group: {"source": S3, "caConfigMapRef": {"name": "ca", name: "another"}}},
        )
        for group in ("model", "dataset")
        for name in ("name", "key")
    },
    **{
        f"{group}.s3.{name}": Change(
            before={group: {"source": S3}}, after={group: {"source": S3, "s3": {name: value}}}
        )
        for group in ("model", "dataset")
        for name, value in (("endpoint", "https://minio:9000"), ("region", "eu-central-1"))
    },
    **{
        f"{group}.s3.secretRef.name": Change(
            before={group: {"source": S3, "s3": {"secretRef": {"name": "keys"}}}},
            after={group: {"source": S3, "s3": {"secretRef": {"name": "another"}}}},
        )
        for group in ("model", "dataset")
    },
    "model.oci.secretRef.name": Change(
        before={"model": {"source": OCI, "oci": {"secretRef": {"name": "login"}}}},
        after={"model": {"source": OCI, "oci": {"secretRef": {"name": "another"}}}},
    ),
    "dataset.promptFormat": Change(before={}, after=_dataset(promptFormat="Question: {prompt}")),
    "storage.baseCache.subPath": Change(
        before={"storage": {"baseCache": {"claimName": "models"}}},
        after={"storage": {"baseCache": {"claimName": "models", "subPath": "hub"}}},
    ),
    # The default is also 2, but the trainer may halve a default; a written value is kept.
    "training.advanced.microBatchSize": Change(
        before={}, after={"training": {"advanced": {"microBatchSize": 2}}}
    ),
    # Unset, the field is hashed as true, which was its built-in value.
    "training.advanced.gradientCheckpointing": Change(
        before={}, after={"training": {"advanced": {"gradientCheckpointing": False}}}
    ),
    "training.trainOn": Change(before={}, after={"training": {"trainOn": "all"}}),
    "merge.enabled": Change(
        before={"serving": {"enabled": False}},
        after={"serving": {"enabled": False}, "merge": {"enabled": False}},
    ),
    "serving.gpuMemoryUtilization": Change(
        before={}, after={"serving": {"gpuMemoryUtilization": 0.5}}
    ),
    "storage.size": Change(before={}, after={"storage": {"size": "120Gi"}}),
    "placement.zones": Change(before={}, after={"placement": {"zones": ["eu-central-1a"]}}),
    **dict(_tolerations(lambda placed: placed)),
    **dict(_tolerations(lambda placed: {"serving": placed}, "serving.")),
    "serving.replicas": Change(before={}, after=_serving(replicas=0)),
    # The only value.
    "serving.idle.action": Change(
        before={}, after=_serving(idle={"afterSeconds": 60, "action": "ScaleToZero"})
    ),
    "serving.dtype": Change(
        before=_serving(mode="adapter"), after=_serving(mode="adapter", dtype="bfloat16")
    ),
    "serving.extraArgs": Change(before={}, after=_serving(extraArgs=["--enforce-eager"])),
    "serving.apiKeySecretRef.name": Change(
        before=_serving(apiKeySecretRef=_SOURCE),
        after=_serving(apiKeySecretRef={**_SOURCE, "name": "another"}),
    ),
    "serving.apiKeySecretRef.key": Change(
        before=_serving(apiKeySecretRef=_SOURCE),
        after=_serving(apiKeySecretRef={**_SOURCE, "key": "another"}),
    ),
    "serving.placement.zones": Change(
        before={}, after=_serving(placement={"zones": ["eu-central-1a"]})
    ),
    **{
        f"resources.{stage}.{part}": Change(
            before={}, after={"resources": {stage: {part: {"example.com/fpga": "1"}}}}
        )
        for stage in ("prepare", "train", "merge", "publish", "serve")
        for part in ("requests", "limits")
    },
}


def change_of(leaf: Leaf) -> Change:
    """Return a change of this field alone."""
    if leaf.path[:2] == ("training", "startFrom"):
        return _change_of_start(".".join(leaf.path[2:]))
    if leaf.path[:2] == ("evaluation", "dataset"):
        same = change_of(Leaf(path=leaf.path[1:], edit=leaf.edit, info=leaf.info))
        return Change(before=_evaluated(same.before), after=_evaluated(same.after))
    if leaf.path[0] == "datasets":
        return _change_of_several(leaf)
    found = CHANGES.get(str(leaf))
    return found or Change(before={}, after=nested(leaf.path, other_value(leaf)))


def _evaluated(spec: Spec) -> Spec:
    """Return a spec whose ``evaluation.dataset`` has the fields of the given spec's ``dataset``."""
    rows = spec.get("dataset", {})
    both = {"dataset": {"format": "text"}} if rows.get("format") == "text" else {}
    return merged(
        merged({"evaluation": EVALUATED["evaluation"]}, {"evaluation": {"dataset": rows}}), both
    )


def _change_of_several(leaf: Leaf) -> Change:
    """Return a change of this field in the second of two datasets."""
    if leaf.path[1] in ("name", "weight"):
        value = "third" if leaf.path[1] == "name" else 0.5
        return Change(before=_several({}), after=_several({"dataset": {leaf.path[1]: value}}))
    same = change_of(Leaf(path=("dataset", *leaf.path[1:]), edit=leaf.edit, info=leaf.info))
    return Change(before=_several(same.before), after=_several(same.after))


def _several(spec: Spec) -> Spec:
    """Return a spec with two datasets; the second has the fields of the given ``dataset``."""
    rows = spec.get("dataset", {})
    second = {"name": "second", **merged(ALPACA["dataset"], rows)}
    # The prompt applies to both.
    first = {**ALPACA["dataset"], "name": "first", "format": second["format"]}
    return {"dataset": None, "datasets": [first, second]}


LEAVES = list(leaves())


def _change_of_start(name: str) -> Change:
    hub, bucket, image = {"source": "hf://org/adapter"}, {"source": S3}, {"source": OCI}

    def changed(common: Spec, before: Spec, after: Spec) -> Change:
        return Change(
            before={"training": {"startFrom": {**common, **before}}},
            after={"training": {"startFrom": {**common, **after}}},
        )

    def named(field: str, common: Spec, **more: str) -> Change:
        reference = {"name": "another"} | more
        return changed(common, {field: {"name": "one"}}, {field: reference})

    return {
        "source": changed({}, hub, image),
        "job.name": changed({}, {"job": {"name": "one"}}, {"job": {"name": "another"}}),
        "job.revision": changed(
            {},
            {"job": {"name": "one", "revision": "0" * 8}},
            {"job": {"name": "one", "revision": "1" * 8}},
        ),
        "revision": changed(hub, {}, {"revision": "v2"}),
        "tokenSecretRef.name": named("tokenSecretRef", hub),
        "tokenSecretRef.key": named("tokenSecretRef", hub, name="one", key="another"),
        "caConfigMapRef.name": named("caConfigMapRef", hub),
        "caConfigMapRef.key": named("caConfigMapRef", hub, name="one", key="another"),
        "s3.endpoint": changed(bucket, {}, {"s3": {"endpoint": "https://minio:9000"}}),
        "s3.region": changed(bucket, {}, {"s3": {"region": "eu-central-1"}}),
        "s3.secretRef.name": changed(
            bucket, {"s3": {"secretRef": {"name": "a"}}}, {"s3": {"secretRef": {"name": "b"}}}
        ),
        "oci.secretRef.name": changed(
            image, {"oci": {"secretRef": {"name": "a"}}}, {"oci": {"secretRef": {"name": "b"}}}
        ),
    }[name]
