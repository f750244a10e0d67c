"""A job that does not exist yet: the fields of the API server's schema, its manifest, its plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION, GROUP, KIND, PLURAL
from finetune_api.policy.readable_settings import NAMESPACE
from finetune_api.v1alpha1.profile import PROFILE_PLURAL
from finetune_cli.cluster import api, ownership, plan_inputs
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.errors import CommandFailed
from finetune_cli.planning import job_plan, state
from finetune_cli.planning.job_plan import JobPlan
from finetune_cli.planning.state import State
from finetune_cli.planning.verdicts import Options
from finetune_cli.ui.reading import rights

SCHEMA = f"/openapi/v3/apis/{GROUP}/v1alpha1"
MANAGER = "ftj-ui"
CHANGE = " Changing this field"
"""Begin of the sentence about edits, which a new job does not need."""
NUMBERS = {"integer": (int,), "number": (int, float)}
Texts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A value of the spec."""

    path: tuple[str, ...]
    type: str
    about: str
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the form."""
        return ".".join(self.path)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a form offers."""

    namespace: str
    fields: tuple[Field, ...]
    profiles: tuple[str, ...]
    downloads: bool
    """Whether config.json of a base model can be read from its source. A page in the cluster would
    be a way around the network policies of its users."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A manifest that a user has written in the form, and what happens if it is applied."""

    manifest: Mapping[str, Any]
    plan: JobPlan
    exists: bool
    owner: str | None
    """The tool that applies objects of this namespace from Git, None if none is known."""


def offer(cluster: Cluster) -> Offer:
    """Return the fields of the installed version of the API. Raises CommandFailed."""
    try:
        components = cluster.get(SCHEMA).get("components") or {}
    except NotFound:
        raise NotFound(api.NO_API) from None
    spec = _spec(components.get("schemas") or {})
    profiles = rights.part(lambda: _profiles(cluster))
    return Offer(
        namespace=cluster.namespace,
        fields=tuple(_fields(spec, ())),
        profiles=tuple(profiles.value or ()),
        downloads=not cluster.shared,
    )


def draft(cluster: Cluster, form: Texts) -> Draft:
    """Return the manifest of a form with its plan. Raises CommandFailed."""
    offered = offer(cluster)
    manifest = manifest_of(offered.fields, form, cluster.namespace)
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    with rights.needs("get", rights.own(PLURAL), namespace):
        inputs = plan_inputs.read(cluster, NAMESPACE, [(namespace, name)] if name else [])
    present = State(
        source="this cluster" if cluster.shared else f"the cluster of context {cluster.context}",
        jobs=inputs.jobs,
        profiles=inputs.profiles,
        budgets=inputs.budgets,
        settings=None if inputs.settings is None else state.settings_of(inputs.settings),
    )
    options = Options(offline=not (offered.downloads and form.get("download")))
    return Draft(
        manifest=manifest,
        plan=job_plan.plan(manifest, "", namespace, present, options),
        exists=bool(inputs.jobs),
        owner=_owner(cluster, namespace, inputs.jobs),
    )


def create(cluster: Cluster, form: Texts) -> tuple[str, str]:
    """Create the job of a form, and return its namespace and its name. Raises CommandFailed."""
    made = draft(cluster, form)
    metadata = made.manifest["metadata"]
    if made.owner:
        raise CommandFailed(
            f"{made.owner} applies the jobs of namespace {metadata['namespace']} from Git: add the "
            "manifest to its repository"
        )
    where = api.path(PLURAL, metadata["namespace"], api=api.JOBS)
    with rights.needs("create", rights.own(PLURAL), metadata["namespace"]):
        cluster.post(f"{where}?fieldManager={MANAGER}&fieldValidation=Strict", made.manifest)
    return metadata["namespace"], metadata["name"]


def manifest_of(fields: Sequence[Field], form: Texts, namespace: str) -> dict[str, Any]:
    """Return the manifest of a form. Fields that are empty are left out."""
    spec: dict[str, Any] = {}
    for field in fields:
        if text := form.get(field.name, "").strip():
            group = spec
            for name in field.path[:-1]:
                group = group.setdefault(name, {})
            group[field.path[-1]] = _value(field, text)
    place = {
        "name": form.get("name", "").strip(),
        "namespace": form.get("namespace", "").strip() or namespace,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": place, "spec": spec}


def _value(field: Field, text: str) -> Any:
    """Return a value; a text of the wrong type remains, and the plan names the field."""
    if field.type == "boolean":
        return text == "true"
    for number in NUMBERS.get(field.type, ()):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _spec(schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    for schema in schemas.values():
        kinds = schema.get("x-kubernetes-group-version-kind") or ()
        if {"group": GROUP, "version": "v1alpha1", "kind": KIND} in kinds:
            spec: Mapping[str, Any] = (schema.get("properties") or {}).get("spec") or {}
            return spec
    raise NotFound(api.NO_API)


def _fields(schema: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Field]:
    """Yield the single values of a schema. Lists and maps are written in YAML."""
    for name, inner in (schema.get("properties") or {}).items():
        here = (*path, name)
        # Of a quantity, such as the size of the volume: it has no type.
        quantity = inner.get("x-kubernetes-int-or-string")
        type_ = "string" if quantity else inner.get("type")
        if inner.get("properties"):
            yield from _fields(inner, here)
        elif type_ in ("string", "boolean", *NUMBERS):
            yield Field(
                path=here,
                type=type_,
                about=str(inner.get("description", "")).partition(CHANGE)[0],
                choices=tuple(map(str, inner.get("enum") or ())),
            )


def _profiles(cluster: Cluster) -> list[str]:
    with rights.needs("list", rights.own(PROFILE_PLURAL), None):
        items = cluster.items(api.path(PROFILE_PLURAL, api=api.JOBS))
    return [str(item["metadata"]["name"]) for item in items]


def _owner(cluster: Cluster, namespace: str, jobs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the tool that owns the job, or a job of its namespace."""
    try:
        others = cluster.items(api.path(PLURAL, namespace, api=api.JOBS))
    except (Forbidden, NotFound):
        others = []
    return next(filter(None, map(ownership.owner, [*jobs, *others])), None)
