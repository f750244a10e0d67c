"""Laws of the endpoint: of the Service, its Deployments and their pods."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.unit.operator.reconcile.random_events import stage_of

from finetune_operator.objects import naming
from finetune_operator.types import Apply, Delete, Plan, Snapshot


def serving_continues(snapshot: Snapshot, intended: Plan) -> None:
    """The Service changes only to a build that answers; the selected build is not deleted."""
    services = [each for each in snapshot.services if naming.owned_by(snapshot.job, each)]
    # If the selector was changed externally, the status contains the serving build.
    previous = snapshot.job["status"].get("serving", {}).get("build")
    builds = {each["spec"]["selector"].get(naming.BUILD, previous) for each in services}
    for selected in builds - {None}:
        answering = [
            naming.label(each, naming.BUILD)
            for each in snapshot.deployments
            if each["status"].get("availableReplicas")
            and each["status"]["observedGeneration"] == each["metadata"]["generation"]
        ]
        for action in intended.actions:
            build = naming.label(action.object, naming.BUILD)
            if isinstance(action, Delete) and action.object["kind"] == "Deployment":
                assert build != selected
            if isinstance(action, Apply) and action.object["kind"] == "Service":
                assert action.object["spec"]["selector"][naming.BUILD] in (selected, *answering)


def replicas_serve_the_build(cluster: Cluster, replicas: int) -> None:
    """Every replica of a Ready job runs, and the Service selects the build of the target."""
    pods = [pod for pod in cluster.each("Pod") if stage_of(pod) == "serve"]
    assert sum(map(controllers.alive, pods)) == replicas
    (service,) = cluster.each("Service")
    if replicas:
        (deployment,) = cluster.each("Deployment")
        build = service["spec"]["selector"][naming.BUILD]
        assert build == naming.label(deployment, naming.BUILD) == cluster.status["build"]
