"""Whether a cluster has what FineTuneJobs need: one finding per requirement, with its remedy."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from finetune_api import GROUP, KIND, PLURAL
from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND, BUDGET_PLURAL
from finetune_api.v1alpha1.budgets.usage import USAGE_PLURAL
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_PLURAL
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION, PROFILE_KIND, PROFILE_PLURAL
from finetune_cli.cluster import api
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.health import gpu_nodes
from finetune_cli.cluster.health.finding import Finding
from finetune_cli.errors import CommandFailed

OLDEST = (1, 31)
"""Oldest minor version of Kubernetes, as in the chart."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
OPERATOR = "app.kubernetes.io/name=finetune-operator,app.kubernetes.io/component=operator"
VERSION = "app.kubernetes.io/version"
ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RIGHTS = (
    ("create", GROUP, PLURAL, "", "start jobs"),
    ("patch", GROUP, PLURAL, "", "change jobs"),
    ("list", "", "pods", "", "status, logs and chat"),
    ("get", "", "pods", "log", "logs"),
    # The websocket of a forwarded port is a GET request; recent API servers ask for create, too.
    ("get", "", "pods", "portforward", "chat, compare and curve"),
    ("create", "", "pods", "portforward", "chat, compare and curve"),
)
"""Verb, group, resource and subresource of a right, and what it is for."""


def findings(cluster: Cluster, own_version: str | None) -> Iterator[Finding]:
    """Yield the findings. Raises CommandFailed if the API server does not answer.

    own_version: of this program, None if it is unknown.
    """
    yield _kubernetes(cluster.get("/version"))
    checks: tuple[tuple[str, Callable[[Cluster], Iterator[Finding]]], ...] = (
        (f"{KIND} API", _api),
        ("operator", lambda cluster: _operator(cluster, own_version)),
        ("GPUs", gpu_nodes.findings),
        ("StorageClass", _storage),
        ("profiles", _profiles),
        ("budgets", _budgets),
        ("quota", _quotas),
        ("Kueue", _kueue),
        ("your rights", _rights),
    )
    for about, check in checks:
        try:
            yield from check(cluster)
        except Forbidden as error:
            yield Finding(
                about=about, state="unknown", found="you may not read it", remedy=str(error)
            )
        except NotFound as error:
            yield Finding(about=about, state="unknown", found=str(error))


def _kubernetes(version: Mapping[str, Any]) -> Finding:
    numbers = [re.match(r"\d+", str(version.get(part, ""))) for part in ("major", "minor")]
    text = str(version.get("gitVersion") or "unknown")
    if None in numbers:
        return Finding(about="Kubernetes", state="unknown", found=text)
    release = tuple(int(number[0]) for number in numbers if number)
    oldest = ".".join(map(str, OLDEST))
    if release < OLDEST:
        remedy = f"Upgrade the cluster to Kubernetes {oldest} or newer."
        return Finding(about="Kubernetes", state="failed", found=text, remedy=remedy)
    return Finding(about="Kubernetes", state="ok", found=text)


def _api(cluster: Cluster) -> Iterator[Finding]:
    about = f"{KIND} API"
    try:
        names = {resource["name"] for resource in cluster.get(api.JOBS).get("resources") or ()}
    except NotFound:
        yield Finding(
            about=about,
            state="failed",
            found=f"the cluster does not serve {GROUP}/v1alpha1",
            remedy="Install the operator with its CRDs (docs/getting-started/installation.md).",
        )
        return
    expected = (PLURAL, PROFILE_PLURAL, ENDPOINT_PLURAL, BUDGET_PLURAL, USAGE_PLURAL)
    if missing := [name for name in expected if name not in names]:
        yield Finding(
            about=about,
            state="failed",
            found=f"without {', '.join(missing)}",
            remedy="Apply the CRDs of the operator's version: Helm does not upgrade them.",
        )
        return
    yield Finding(about=about, state="ok", found=f"{GROUP}/v1alpha1")


def _operator(cluster: Cluster, own_version: str | None) -> Iterator[Finding]:
    path = api.path("deployments", api="/apis/apps/v1")
    deployments = cluster.items(path, labelSelector=OPERATOR)
    if not deployments:
        remedy = "Install the operator with its chart (docs/getting-started/installation.md)."
        yield Finding(about="operator", state="failed", found="no Deployment", remedy=remedy)
    for deployment in deployments:
        metadata, ready = (
            deployment["metadata"],
            (deployment.get("status") or {}).get("readyReplicas") or 0,
        )
        name = f"{metadata['namespace']}/{metadata['name']}"
        version = (metadata.get("labels") or {}).get(VERSION)
        text = f"{name}, version {version}, {ready} ready"
        if not ready:
            place = f"-n {metadata['namespace']} deploy/{metadata['name']}"
            remedy = f"Read its log: kubectl logs {place}"
            yield Finding(about="operator", state="failed", found=text, remedy=remedy)
        elif own_version is not None and version != own_version:
            remedy = f"Install ftj in version {version}; this one is {own_version}."
            yield Finding(about="operator", state="warning", found=text, remedy=remedy)
        else:
            yield Finding(about="operator", state="ok", found=text)


def _storage(cluster: Cluster) -> Iterator[Finding]:
    classes = cluster.items(api.path("storageclasses", api="/apis/storage.k8s.io/v1"))
    names = ", ".join(class_["metadata"]["name"] for class_ in classes)
    default = [class_ for class_ in classes if _annotation(class_, DEFAULT_CLASS) == "true"]
    if not default:
        yield Finding(
            about="StorageClass",
            state="warning" if classes else "failed",
            found=f"no default class (there are: {names})" if classes else "no class",
            remedy="Make one the default, or set spec.storage.storageClassName in each job."
            if classes
            else "Install a driver for volumes with its StorageClass.",
        )
        return
    chosen = default[0]
    text = f"{chosen['metadata']['name']} is the default"
    if chosen.get("allowVolumeExpansion"):
        yield Finding(about="StorageClass", state="ok", found=text)
    else:
        remedy = "Set allowVolumeExpansion: true if its driver can resize volumes."
        problem = f"{text}, and its volumes cannot grow: spec.storage.size is final for a revision"
        yield Finding(about="StorageClass", state="warning", found=problem, remedy=remedy)


def _profiles(cluster: Cluster) -> Iterator[Finding]:
    profiles = cluster.items(api.path(PROFILE_PLURAL, api=api.JOBS))
    marked = [profile for profile in profiles if _annotation(profile, DEFAULT_ANNOTATION) == "true"]
    default = [profile["metadata"]["name"] for profile in marked]
    text = f"{len(profiles)} of kind {PROFILE_KIND}, default: {', '.join(default) or 'none'}"
    if len(default) > 1:
        remedy = f"Leave the annotation {DEFAULT_ANNOTATION} on one of them."
        yield Finding(about="profiles", state="warning", found=text, remedy=remedy)
    else:
        yield Finding(about="profiles", state="ok", found=text)
    yield from _not_valid(PROFILE_KIND, profiles, about="profiles")


def _budgets(cluster: Cluster) -> Iterator[Finding]:
    budgets = cluster.items(api.path(BUDGET_PLURAL, api=api.JOBS))
    yield Finding(about="budgets", state="ok", found=f"{len(budgets)} of kind {BUDGET_KIND}")
    yield from _not_valid(BUDGET_KIND, budgets, about="budgets")


def _not_valid(kind: str, objects: Sequence[Mapping[str, Any]], *, about: str) -> Iterator[Finding]:
    """Yield the objects that the operator reports as not valid: jobs wait because of them."""
    for manifest in objects:
        for condition in (manifest.get("status") or {}).get("conditions") or ():
            if condition.get("type") == "Valid" and condition.get("status") == "False":
                text = (
                    f"{kind} {manifest['metadata']['name']} is not valid: {condition.get('reason')}"
                )
                remedy = str(condition.get("message", ""))
                yield Finding(about=about, state="warning", found=text, remedy=remedy)


def _quotas(cluster: Cluster) -> Iterator[Finding]:
    quotas = cluster.items(api.path("resourcequotas", cluster.namespace))
    limits = [
        (quota, key)
        for quota in quotas
        for key in gpu_nodes.limited((quota.get("status") or {}).get("hard") or {})
    ]
    if not limits:
        absent = f"namespace {cluster.namespace} has no ResourceQuota for GPUs"
        yield Finding(about="quota", state="ok", found=absent)
    for quota, key in limits:
        hard, used = (
            str((quota["status"].get(part) or {}).get(key, "0")) for part in ("hard", "used")
        )
        text = f"ResourceQuota {quota['metadata']['name']}: {used} of {hard} GPUs used"
        if hard == used:
            remedy = "A job waits until another one ends: raise the quota, or see ftj gpus."
            yield Finding(about="quota", state="warning", found=text, remedy=remedy)
        else:
            yield Finding(about="quota", state="ok", found=text)


def _kueue(cluster: Cluster) -> Iterator[Finding]:
    try:
        served = cluster.get("/apis/kueue.x-k8s.io")
    except NotFound:
        yield Finding(about="Kueue", state="ok", found="not installed: jobs start at once")
        return
    version = str((served.get("preferredVersion") or {}).get("groupVersion"))
    queues = cluster.items(api.path("localqueues", cluster.namespace, api=f"/apis/{version}"))
    names = ", ".join(queue["metadata"]["name"] for queue in queues)
    if names:
        yield Finding(about="Kueue", state="ok", found=f"{version}, LocalQueues: {names}")
    else:
        problem = f"{version}, without a LocalQueue in namespace {cluster.namespace}"
        remedy = "Create a LocalQueue if the jobs of this namespace set spec.queueName."
        yield Finding(about="Kueue", state="ok", found=problem, remedy=remedy)


def _rights(cluster: Cluster) -> Iterator[Finding]:
    lacking = [right for right in RIGHTS if not _may(cluster, *right[:4])]
    where = f"in namespace {cluster.namespace}"
    if not lacking:
        yield Finding(about="your rights", state="ok", found=f"all that ftj uses {where}")
    for verb, _, resource, part, purpose in lacking:
        name = f"{resource}/{part}" if part else resource
        yield Finding(
            about="your rights",
            state="warning",
            found=f"you may not {verb} {name} {where}, for {purpose}",
            remedy="Ask an administrator of the cluster for this right.",
        )


def _may(cluster: Cluster, verb: str, group: str, resource: str, part: str) -> bool:
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": part}
    spec = {"resourceAttributes": {**attributes, "namespace": cluster.namespace}}
    answer = cluster.post(ACCESS, {"apiVersion": "authorization.k8s.io/v1", "spec": spec})
    if "status" not in answer:
        raise CommandFailed(
            "the API server does not say which rights you have: run ftj doctor again"
        )
    return bool(answer["status"].get("allowed"))


def _annotation(object_: Mapping[str, Any], name: str) -> str | None:
    value = (object_["metadata"].get("annotations") or {}).get(name)
    return None if value is None else str(value)
