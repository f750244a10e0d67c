"""The objects of a FineTuneEndpoint, byte for byte; ``--update-golden`` writes the files."""

from pathlib import Path

import pytest
from tests.support.reconcile.endpoint_world import SETTINGS, World
from tests.unit.operator.manifests.test_golden import shown

from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_operator.manifests.endpoints import base_job, network, objects, prune_job, serving
from finetune_operator.revisions.sharing.settings import resolve

GOLDEN = Path(__file__).parent / "golden_endpoint"
BASE = PreparedBase(
    manifest="b" * 64, dtype="float16", bytes=16 << 30, modules=["q_proj", "v_proj"]
)


def rendered() -> dict[str, str]:
    endpoint = World().endpoint
    endpoint["spec"] |= {
        "lora": {"maxAdapters": 20, "maxRank": 32},
        "toolCallParser": "hermes",
        "access": {"keysSecretRef": {"name": "keys"}, "allowedNamespaces": ["apps"]},
        "placement": {"zones": ["eu-central-1a"]},
    }
    endpoint["spec"]["model"]["tokenSecretRef"] = {"name": "hf"}
    target = resolve(endpoint, SETTINGS)
    made = {
        "volume": objects.claim(endpoint, target),
        "service": objects.service(endpoint),
        "budget": objects.budget(endpoint),
        "policy-base": network.preparing(endpoint, target),
        "policy-serve": network.serving(endpoint, target),
        "policy-prune": network.pruning(endpoint),
        "job-base": base_job.render(endpoint, target, 1),
        "job-prune": prune_job.render(endpoint, target, "7c5e1a52-4b0e-4f4e-9a53-1f0c7a2b9d11"),
        "deployment": serving.deployment(
            endpoint, target, BASE, public_key="-----BEGIN PUBLIC KEY-----\n", sequence=7
        ),
    }
    return {title: shown(thing) for title, thing in made.items()}


@pytest.mark.parametrize("title", rendered())
def test_objects_are_the_golden_ones(title: str, request: pytest.FixtureRequest) -> None:
    path, text = GOLDEN / f"{title}.yaml", rendered()[title]
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_belongs_to_an_object() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == rendered().keys()
