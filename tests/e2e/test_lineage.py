"""One job trains from a published model, and another one continues from a published adapter.

The models are in a registry outside of the cluster, and before that in a bucket. Both jobs serve
and publish, and what the operator signs about their models names where these come from.
tests/trainer/sources/test_lineage.py has the files that the stages read and write.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from tests.e2e import bucket, registry
from tests.e2e.published import Published, models, public_key, target, verify
from tests.e2e.registry import Registry, flipped
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import OPERATOR_NAMESPACE, Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning, small

from cluster.settings import SIGNING_KEY_SECRET
from finetune_cli.verifying.failures import Code

pytestmark = pytest.mark.exhaustive

NAMESPACE, PARENT = "e2e-lineage", "parent"
WEIGHTS = {"adapter": "adapter_model.safetensors", "merged": "model.safetensors"}
"""What the parent publishes, with the file of its weights."""
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
def key(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public key of the operator."""
    secret = cluster.kubectl.get("secret", SIGNING_KEY_SECRET, OPERATOR_NAMESPACE)
    return public_key(secret, tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def parent(cluster: Cluster, figures: list[str]) -> Iterator[Tuning]:
    """The job that publishes first, after its training."""
    began = time.monotonic()
    with namespaces(cluster, NAMESPACE):
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name=PARENT)
        tuning.apply(small(serving={"enabled": False}))
        tuning.wait_until("Succeeded", seconds=SECONDS)
        figures.append(f"the parent has trained after {time.monotonic() - began:.0f} s")
        yield tuning


@pytest.fixture(scope="module")
def family(
    parent: Tuning, key: Path, tmp_path_factory: pytest.TempPathFactory, figures: list[str]
) -> Iterator[Family]:
    """Publish the models of the parent, and train both others at the same time."""
    began = time.monotonic()
    with registry.running(tmp_path_factory.mktemp("registry")) as place:
        parent.cluster.kubectl.apply(*place.objects(NAMESPACE))
        parent.change(publish=[target(parent, place, what) for what in WEIGHTS])
        sources = models(parent, place)
        base = {"source": f"oci://{sources['merged'].reference}", **ACCESS}
        job = {"name": PARENT, "revision": parent.status()["revision"]}
        tunings = [
            _applied(parent, place, "from-model", model=base),
            _applied(parent, place, "from-adapter", training={"startFrom": {"job": job, **ACCESS}}),
        ]
        from_model, from_adapter = (
            Child(tuning=tuning, published=models(tuning, place, seconds=SECONDS)["merged"])
            for tuning in tunings
        )
        figures.append(f"both other jobs have published {time.monotonic() - began:.0f} s later")
        yield Family(
            parent=parent,
            sources=sources,
            from_model=from_model,
            from_adapter=from_adapter,
            key=key,
        )


def test_both_models_are_in_a_bucket_and_ftj_verifies_them(
    parent: Tuning, key: Path, tmp_path: Path
) -> None:
    """Before the registry listens: both have the only port that jobs reach."""
    with bucket.running(tmp_path) as place:
        parent.cluster.kubectl.apply(*place.objects(NAMESPACE))
        parent.change(
            publish=[{"name": what, "what": what, "s3": place.target(what)} for what in WEIGHTS]
        )
        parent.wait_until("Published", seconds=SECONDS)
        entries = {entry["name"]: entry for entry in parent.status()["publish"]}
        assert entries.keys() == WEIGHTS.keys()
        options = (
            *("--endpoint", bucket.URL, "--region", bucket.REGION),
            *("--ca", str(place.certificate)),
        )
        for what, entry in entries.items():
            folder = f"{what}/{entry['digest'].replace(':', '-')}"
            check = partial(
                verify, f"s3://{bucket.BUCKET}/{folder}", key, *options, **bucket.ACCESS
            )
            verified = check()
            assert verified.returncode == 0, verified.stderr
            with flipped(place.folder / folder / WEIGHTS[what]):
                assert check().returncode == Code.CHANGED


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


def _applied(parent: Tuning, place: Registry, name: str, **changes: Object) -> Tuning:
    """Apply a small job next to the parent that publishes its merged model."""
    tuning = replace(parent, name=name)
    return tuning.apply(small(publish=[target(tuning, place, "merged")], **changes))
