"""Laws of the endpoint: of the Service, its Deployments and their pods."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.unit.operator.reconcile.random_events import stage_of

from finetune_operator.actions import Apply, Delete
from finetune_operator.objects import naming
from finetune_operator.types import Plan, Snapshot


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


def stopped_only_without_requests(snapshot: Snapshot, intended: Plan) -> None:
    """Pods are stopped only if all of them got no requests, and during no rollout."""
    serving = intended.status.get("serving") or {}
    before = snapshot.job["status"].get("serving", {})
    if serving.get("idleSince") in (None, before.get("idleSince")):
        return
    pods = [
        pod["metadata"]["uid"]
        for pod in snapshot.pods
        if naming.label(pod, naming.BUILD) == serving["build"]
        and naming.is_serving(pod)
        and controllers.alive(dict(pod))
        and "deletionTimestamp" not in pod["metadata"]
    ]
    quiet = {each.pod: each.idle_seconds for each in snapshot.requests}
    assert pods
    assert all(quiet[pod] >= serving["idleAfterSeconds"] for pod in pods)
    owned = [each for each in snapshot.deployments if naming.owned_by(snapshot.job, each)]
    replicas = {naming.label(each, naming.BUILD): each["spec"]["replicas"] for each in owned}
    assert replicas.pop(serving["build"]) == len(pods)
    assert not any(replicas.values()), "another build has pods"
    for action in intended.actions:
        if isinstance(action, Apply) and action.object["kind"] == "Deployment":
            assert not action.object["spec"]["replicas"], "no build starts meanwhile"


def replicas_serve_the_build(cluster: Cluster, replicas: int) -> None:
    """Every replica of a Ready job runs, and the Service selects the build of the target."""
    pods = [pod for pod in cluster.each("Pod") if stage_of(pod) == "serve"]
    assert sum(map(controllers.alive, pods)) == replicas
    (service,) = cluster.each("Service")
    if replicas:
        (deployment,) = cluster.each("Deployment")
        build = service["spec"]["selector"][naming.BUILD]
        assert build == naming.label(deployment, naming.BUILD) == cluster.status["build"]
