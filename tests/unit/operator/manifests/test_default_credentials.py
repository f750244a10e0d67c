"""A law of all rendered pods: a credential of the chart reaches no server that the author wrote.

Objects whose names begin with ``platform`` are references of the chart value ``defaults``, those
that begin with ``author`` are references of the job. Servers have such names, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.apiserver import CONFIG, Cluster, Thing
from tests.support.rendered import children, template

from finetune_api.v1alpha1.sources import prefix_of

DIGEST = "0" * 64
GROUPS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "dataset": ("dataset",),
    "evaluation.dataset": ("evaluation", "dataset"),
}
FIELDS_OF_SCHEME: dict[str | None, tuple[str, ...]] = {
    "hf": ("tokenSecretRef", "caConfigMapRef"),
    "https": ("tokenSecretRef", "caConfigMapRef"),
    "s3": ("caConfigMapRef", "secretRef", "endpoint"),
    "pvc": (),
    None: ("tokenSecretRef", "caConfigMapRef", "secretRef", "endpoint"),
}
"""Fields next to a source of each kind; the last two are in ``s3``."""


@dataclass(frozen=True)
class Source:
    """A model or dataset as the author and the chart wrote it."""

    author: Thing
    chart: Thing

    @property
    def location(self) -> str:
        return str(self.author.get("source", self.chart.get("source")))

    def value(self, name: str) -> Any:
        """Return a value next to the source, the author's if there is one."""
        own = _next_to(self.author, name)
        return _next_to(self.chart, name) if own is None else own

    def server_is_of_the_author(self) -> bool:
        """Report whether the author wrote the server: in the source, or as the endpoint."""
        if self.location.startswith("https://"):
            return self.location != self.chart.get("source")
        if self.location.startswith("s3://"):
            return self.is_of_the_author("endpoint")
        return False

    def is_of_the_author(self, name: str) -> bool:
        """Report whether the author wrote a value that is not the chart's."""
        own = _next_to(self.author, name)
        return own is not None and own != _next_to(self.chart, name)

    def place(self) -> tuple[str, Any]:
        """Return where the content is: the source and, for S3, the endpoint."""
        in_bucket = self.location.startswith("s3://")
        return self.location, self.value("endpoint") if in_bucket else None


def _next_to(group: Thing, name: str) -> Any:
    return group.get("s3", {}).get(name) if name in ("secretRef", "endpoint") else group.get(name)


@dataclass(frozen=True)
class Case:
    """A job and the chart defaults."""

    job: Thing
    defaults: Thing

    def sources(self) -> dict[str, Source]:
        """Return the sources of the job by their paths in the spec."""
        found = {}
        for kind, path in GROUPS.items():
            author, chart = _at(self.job, path), _at(self.defaults, path)
            if author or (chart and kind == "evaluation.dataset"):
                found[kind] = Source(author, chart)
        chart = _at(self.defaults, ("dataset",))
        for entry in self.job.get("datasets", ()):
            found[f"datasets[{entry['name']}]"] = Source(entry, chart)
        return found

    def certificates_of_the_author(self, source: Source) -> bool:
        """Report whether the author wrote certificates for the server of a source.

        Those of an hf:// source apply to all connections of the pod.
        """
        return source.is_of_the_author("caConfigMapRef") or any(
            each.location.startswith("hf://") and each.is_of_the_author("caConfigMapRef")
            for each in self.sources().values()
        )

    def misuse(self, kind: str, name: str, secret: bool) -> str | None:
        """Return why a credential of the chart must not be used for a source, or None."""
        source = self.sources()[kind]
        if source.author.get("caConfigMapRef", {}).get("name") == name:
            return None
        if source.server_is_of_the_author():
            return f"the author wrote the server of {kind}"
        if source.chart.get("source") not in (None, source.location):
            return f"the chart configured it for {source.chart['source']}, not for {kind}"
        if secret and self.certificates_of_the_author(source):
            return f"the author wrote the certificates of the server of {kind}"
        return None

    def misuse_of_account(self) -> str | None:
        """Return why the service account of the chart must not be used, or None."""
        configured = {
            Source(chart, {}).place()
            for path in GROUPS.values()
            if (chart := _at(self.defaults, path)).get("source", "").startswith("s3://")
        }
        for kind, source in self.sources().items():
            if not source.location.startswith("s3://") or source.value("secretRef") is not None:
                continue
            if source.server_is_of_the_author() or self.certificates_of_the_author(source):
                return f"the author wrote the server of {kind}, or its certificates"
            if configured and source.place() not in configured:
                return f"the chart configured it for {configured}, not for {kind}"
        return None


def _at(spec: Thing, path: tuple[str, ...]) -> Thing:
    for step in path:
        spec = spec.get(step, {})
    return spec


@dataclass(frozen=True)
class Reference:
    """A reference to an object: its name, and the variable, file or field that uses it."""

    name: str
    use: str


def references(value: Any, use: str = "") -> Iterator[Reference]:
    """Yield every name of an object in a rendered pod."""
    if isinstance(value, list):
        for item in value:
            yield from references(item, use)
    if not isinstance(value, dict):
        return
    if "valueFrom" in value:
        use = value["name"]
    for key, inner in value.items():
        if key in ("serviceAccountName", "secretName", "claimName"):
            yield Reference(inner, key)
        elif key in ("secretKeyRef", "configMapKeyRef", "secretRef", "configMapRef"):
            yield Reference(inner["name"], use)
        elif key in ("configMap", "secret") and "name" in inner:
            for item in inner.get("items", [{"path": key}]):
                yield Reference(inner["name"], item["path"])
        else:
            yield from references(inner, use)


def misuses(case: Case) -> Iterator[str]:
    """Yield every use of a credential of the chart in a pod that breaks the law."""
    config = CONFIG.model_copy(update={"defaults": case.defaults})
    kinds = {f"{prefix_of(kind)}_": kind for kind in case.sources()}
    for title, thing in children(case.job, config).items():
        for reference in references(template(thing)):
            if not reference.name.startswith("platform"):
                continue
            use = reference.use
            kind = use.removeprefix("ca/").removesuffix(".crt")
            variable = next((kinds[each] for each in kinds if use.startswith(each)), None)
            if title == "deployment":
                reason = None if use == "VLLM_API_KEY" else "a serving pod needs only its key"
            elif title != "job-prepare":
                reason = "only prepare has credentials"
            elif use == "serviceAccountName":
                reason = case.misuse_of_account()
            elif variable is not None:
                reason = case.misuse(variable, reference.name, secret=True)
            elif kind in case.sources():
                reason = case.misuse(kind, reference.name, secret=False)
            elif use == "claimName":
                reason = None
            else:
                reason = "its use is unknown"
            if reason is not None:
                yield f"{title}: {use} from {reference.name}: {reason}"


def _token(owner: str) -> Thing:
    return {"tokenSecretRef": {"name": f"{owner}-token"}}


HF, ATTACKER = "hf://author/x", "https://author.example/x/SHA256SUMS"
MODEL: Thing = {"source": HF}
ROWS: Thing = {"source": "hf://author/rows", "format": "text"}
KEYS: Thing = {"s3": {"secretRef": {"name": "platform-keys"}}}
OWN_ENDPOINT: Thing = {"source": "s3://author/x", "s3": {"endpoint": "https://author:9000"}}
AUTHORITY: Thing = {"caConfigMapRef": {"name": "platform-ca"}}
WEB: Thing = {"source": ATTACKER, "sha256": DIGEST}
FOREIGN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "token to a web server": ({"model": WEB}, {"model": _token("platform")}),
    "token to a dataset in a list": (
        {
            "datasets": [
                {"name": "a", **ROWS},
                {"name": "b", **ROWS, **WEB},
            ]
        },
        {"dataset": _token("platform")},
    ),
    "token to an evaluation dataset": (
        {"evaluation": {"dataset": {**ROWS, **WEB}}},
        {"evaluation": {"dataset": _token("platform")}},
    ),
    "keys to an endpoint": ({"model": OWN_ENDPOINT}, {"model": KEYS}),
    "keys to an endpoint of an entry": (
        {"datasets": [{"name": "a", **ROWS}, {"name": "b", **ROWS, **OWN_ENDPOINT}]},
        {"dataset": KEYS},
    ),
    "identity to an endpoint": (
        {"model": OWN_ENDPOINT},
        {"access": {"serviceAccountName": "platform-account"}},
    ),
    "identity to another bucket": (
        {"dataset": {**ROWS, "source": "s3://author/rows"}},
        {
            "model": {"source": "s3://platform/base"},
            "access": {"serviceAccountName": "platform-account"},
        },
    ),
    "identity with certificates of the author": (
        {"model": {"source": "s3://author/x", "caConfigMapRef": {"name": "author-ca"}}},
        {"access": {"serviceAccountName": "platform-account"}},
    ),
    "certificates of a web server": ({"model": WEB}, {"model": AUTHORITY}),
    "token with another source": (
        {"model": MODEL},
        {"model": {"source": "hf://platform/base", **_token("platform")}},
    ),
    "token with certificates of the author": (
        {"model": {**MODEL, "caConfigMapRef": {"name": "author-ca"}}},
        {"dataset": _token("platform")},
    ),
}


@pytest.mark.parametrize("attack", FOREIGN)
def test_a_credential_of_the_chart_is_not_used_for_another_server(attack: str) -> None:
    spec, defaults = FOREIGN[attack]
    training = {} if "datasets" in spec else {"dataset": ROWS}
    assert list(misuses(Case({"model": MODEL, **training, **spec}, defaults))) == []


def test_a_revision_with_frozen_defaults_uses_no_credential_for_another_server() -> None:
    """The chart no longer has the defaults, and the resumed revision gets a new pod."""
    defaults = {"model": _token("platform"), "dataset": _token("platform")}
    spec = {"model": {"source": ATTACKER, "sha256": DIGEST}, "dataset": ROWS}
    cluster = Cluster(spec=spec, config=CONFIG.model_copy(update={"defaults": defaults}))
    cluster.settle()
    (started,) = cluster.status["revisions"]
    (earlier,) = cluster.each("Job")
    cluster.edit(suspend=True)
    cluster.settle()
    cluster.remove(earlier)
    cluster.config = CONFIG
    cluster.edit(suspend=False)
    cluster.settle()
    (job,) = cluster.each("Job")
    assert job["metadata"]["uid"] != earlier["metadata"]["uid"]
    uses = {reference.use for reference in references(template(job))}
    assert "DATASET_HF_TOKEN" in uses, "the defaults are frozen"
    assert "MODEL_HTTPS_TOKEN" not in uses
    (present,) = cluster.status["revisions"]
    assert present["frozen"] == started["frozen"]


SOURCES = {
    "hf": "hf://{}/{}",
    "https": "https://{}.example/{}/SHA256SUMS",
    "s3": "s3://{}/{}",
    "pvc": "pvc://{}/{}",
}


def _group(draw: st.DrawFn, schemes: list[str], name: str, chart: Thing | None = None) -> Thing:
    """Draw a model or dataset: of the chart, or of an author who knows that of the chart."""
    owner = "platform" if chart is None else "author"
    choices = [SOURCES[scheme].format(owner, name) for scheme in schemes]
    # The schema requires a source in a job.
    other = None if chart is None else chart.get("source", choices[0])
    source = draw(st.sampled_from(choices) | st.just(other))
    found: Thing = {} if source is None else {"source": source}
    if source is not None and source.startswith("https://"):
        found["sha256"] = DIGEST
    for field in FIELDS_OF_SCHEME[source.split("://")[0] if source else None]:
        if not draw(st.booleans()):
            continue
        writer = draw(st.sampled_from([owner, "platform"]))
        if field == "endpoint":
            found.setdefault("s3", {})[field] = f"https://{writer}:9000"
        elif field == "secretRef":
            found.setdefault("s3", {})[field] = {"name": f"{owner}-keys"}
        elif field == "caConfigMapRef":
            found[field] = {"name": f"{writer}-ca"}
        else:
            found[field] = {"name": f"{owner}-token"}
    return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw chart defaults, and a valid job of an author who knows them."""
    rows = {"format": "messages"}
    # Most errors need sources of the same kind in both layers.
    schemes = draw(st.sampled_from([["s3"], ["hf"], ["hf", "s3"], list(SOURCES)]))
    chart = {name: _group(draw, schemes, name) for name in ("model", "dataset", "test")}
    defaults: Thing = {name: chart[name] for name in ("model", "dataset")}
    if chart["test"]:
        defaults["evaluation"] = {"dataset": {**rows, **chart["test"]}}
    job: Thing = {"model": _group(draw, schemes, "model", chart["model"])}
    if draw(st.booleans()):
        job["dataset"] = {**rows, **_group(draw, schemes, "dataset", chart["dataset"])}
    else:
        job["datasets"] = [
            {"name": name, **rows, **_group(draw, schemes, name, chart["dataset"])}
            for name in ("first", "second")
        ]
    if draw(st.booleans()):
        job["evaluation"] = {"dataset": {**rows, **_group(draw, schemes, "test", chart["test"])}}
    for layer, owner in ((defaults, "platform"), (job, "author")):
        if draw(st.booleans()):
            layer["access"] = {"serviceAccountName": f"{owner}-account"}
        if draw(st.booleans()):
            layer["serving"] = {"apiKeySecretRef": {"name": f"{owner}-key"}}
    return Case(job, defaults)


@settings(deadline=None)
@given(case=cases())
def test_credentials_of_the_chart_are_used_only_where_it_configured_them(case: Case) -> None:
    assert list(misuses(case)) == []
