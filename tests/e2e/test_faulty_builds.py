"""Every fault that can be planted into a build is found before the build serves.

All tests of this file use one job, which is trained twice before it serves: one fault is the model
of its previous revision. test_serving.py plants one of the faults.
"""

from collections.abc import Iterator

import pytest
from tests.e2e.planting import FOUND_BY, Candidate, candidate
from tests.e2e.rejection import reject
from tests.e2e.served import SPEC, Served, key_secret
from tests.support.local_cluster import pods
from tests.support.local_cluster.pods import Task
from tests.support.local_cluster.target import Cluster, namespaces
from tests.support.local_cluster.tuning import Tuning

pytestmark = pytest.mark.exhaustive

NAMESPACE = "e2e-faulty-builds"
MADE_SECONDS, READY_SECONDS = 900.0, 900.0


@pytest.fixture(scope="module")
def revisions(cluster: Cluster) -> Iterator[tuple[Served, str]]:
    """The serving job, and the build of its previous revision, which was never served."""
    stay = Task(script="stay.py", image=cluster.operator_image())
    with namespaces(cluster, NAMESPACE):
        cluster.kubectl.apply(key_secret(NAMESPACE))
        serving = {"serving": {**SPEC["serving"], "enabled": False}}
        tuning = Tuning(cluster=cluster, namespace=NAMESPACE, name="small").apply(SPEC | serving)
        with pods.started(cluster, NAMESPACE, stay) as own:
            tuning.wait_until("Ready", reason="Completed", seconds=MADE_SECONDS)
            previous = tuning.status()["build"]
            tuning.change(training={"seed": 2}, serving={"enabled": True})
            tuning.wait_until("Ready", reason="Serving", seconds=READY_SECONDS)
            yield Served(tuning=tuning, callers={NAMESPACE: own}), previous


@pytest.fixture(scope="module")
def planted(revisions: tuple[Served, str]) -> Iterator[Candidate]:
    """A build whose serving attempts each have a different fault."""
    served, previous = revisions
    build = {"dtype": "float16", "base": "dequantized"}
    with candidate(served.tuning, previous=previous, **build) as found:
        yield found


@pytest.mark.parametrize("fault", FOUND_BY)
def test_a_faulty_build_is_never_served(
    revisions: tuple[Served, str], planted: Candidate, fault: str, figures: list[str]
) -> None:
    served, _ = revisions
    figures.append(f"{fault}: {reject(served, planted, fault, caller=NAMESPACE)}")
