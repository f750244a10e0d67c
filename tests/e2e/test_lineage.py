"""One job trains from a published model, and another one continues from a published adapter.

The models are in a registry outside of the cluster. Both jobs serve and publish, and what the
operator signs about their models names where these come from. tests/trainer/sources/test_lineage.py
has the files that the stages read and write.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e import registry
from tests.e2e.published import Published, models, public_key, target
from tests.e2e.registry import Registry
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning, small

from cluster.settings import SIGNING_KEY_SECRET

pytestmark = pytest.mark.exhaustive

NAMESPACE, PARENT = "e2e-lineage", "parent"
SECONDS = 900.0
ACCESS = {
    "oci": {"secretRef": {"name": "registry"}},
    "caConfigMapRef": {"name": "registry", "key": "ca.crt"},
}
"""How a job reads from the registry."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A job whose source is a model of another job, and what it has published."""

    tuning: Tuning
    published: Published

    def card(self) -> str:
        """Return the model card at the registry."""
        return self.published.registry.text(self.published.digest, "README.md")

    def input(self, key: Path, name: str) -> Object:
        """Return an input that the signed statement of the published model names."""
        done = self.published.verify(key)
        assert done.returncode == 0, done.stderr
        inputs = json.loads(done.stdout)["predicate"]["buildDefinition"]["resolvedDependencies"]
        (found,) = (entry for entry in inputs if entry["name"] == name)
        return dict(found)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A job, its published models by what they are, and two jobs that are trained from them."""

    parent: Tuning
    sources: dict[str, Published]
    from_model: Child
    from_adapter: Child
    key: Path
    """The public key of the operator."""

    def revision(self) -> Object:
        """Return the revision of the parent."""
        (revision,) = self.parent.status()["revisions"]
        return dict(revision)


@pytest.fixture(scope="module")
def family(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, figures: list[str]
) -> Iterator[Family]:
    """Train and publish the parent, then both others at the same time."""
    folder, began = tmp_path_factory.mktemp("registry"), time.monotonic()
    secret = cluster.kubectl.get("secret", SIGNING_KEY_SECRET, OPERATOR_NAMESPACE)
    with namespaces(cluster, NAMESPACE), registry.running(folder) as place:
        cluster.kubectl.apply(*place.objects(NAMESPACE))
        parent = _applied(cluster, place, PARENT, "adapter", "merged", serving={"enabled": False})
        sources = models(parent, place, seconds=SECONDS)
        revision, trained = parent.status()["revision"], time.monotonic()
        from_model = _applied(
            cluster,
            place,
            "from-model",
            "merged",
            model={"source": f"oci://{sources['merged'].reference}", **ACCESS},
        )
        job = {"job": {"name": PARENT, "revision": revision}, **ACCESS}
        from_adapter = _applied(
            cluster, place, "from-adapter", "merged", training={"startFrom": job}
        )
        found = Family(
            parent=parent,
            sources=sources,
            from_model=_child(from_model, place),
            from_adapter=_child(from_adapter, place),
            key=public_key(secret, folder),
        )
        ended = time.monotonic()
        figures.append(
            f"parent published after {trained - began:.0f} s, both others {ended - trained:.0f} s "
            "later"
        )
        yield found


def test_both_jobs_serve_a_verified_model(family: Family) -> None:
    for child in (family.from_model, family.from_adapter):
        child.tuning.wait_until("Ready", reason="Serving", seconds=SECONDS)
        status = child.tuning.status()
        assert status["verification"]["outcome"] == "Verified", child.tuning.name
        assert status["training"]["globalStep"] == status["training"]["maxSteps"]


def test_a_model_names_the_published_base_by_digest(family: Family) -> None:
    source = family.sources["merged"]
    digest = source.digest.removeprefix("sha256:")
    assert source.reference.endswith(f"@{source.digest}")
    base = family.from_model.input(family.key, "base")
    assert base["uri"] == f"oci://{source.reference}"
    assert base["digest"] == {"sha256": digest}
    card = family.from_model.card()
    assert f"| base | `oci://{source.reference}` |" in card
    assert f"| base commit | `{digest}` |" in card
    assert "continued from" not in card


def test_a_model_names_the_adapter_from_which_it_continues_and_its_job(family: Family) -> None:
    source, revision = family.sources["adapter"], family.revision()
    start = family.from_adapter.input(family.key, "adapter to continue from")
    assert start["uri"] == f"oci://{source.reference}"
    assert start["digest"] == {"sha256": source.digest.removeprefix("sha256:")}
    parent = {"name": revision["revision"], "sha256": revision["frozen"]["digest"]}
    annotations = start["annotations"]
    assert annotations["job"] == PARENT
    assert annotations["revision"] == parent
    assert annotations["published"] == source.digest
    card = family.from_adapter.card()
    assert f"| continued from | `oci://{source.reference}` |" in card
    named = f"`{PARENT}`, `{revision['revision']}`"
    assert f"| job and revision of that adapter | {named} |" in card
    assert f"| published digest of that adapter | `{source.digest}` |" in card


def _applied(
    cluster: Cluster, place: Registry, name: str, *whats: str, **changes: Object
) -> Tuning:
    """Apply a small job that publishes."""
    tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name=name)
    publish = [target(tuning, place, what) for what in whats]
    return tuning.apply(small(publish=publish, **changes))


def _child(tuning: Tuning, place: Registry) -> Child:
    return Child(tuning=tuning, published=models(tuning, place, seconds=SECONDS)["merged"])
