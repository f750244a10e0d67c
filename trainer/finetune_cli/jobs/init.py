"""``ftj init``: prints a minimal manifest, with a profile of the cluster where there is one."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION, PROFILE_KIND, PROFILE_PLURAL
from finetune_api.validation import findings
from finetune_cli import terminal
from finetune_cli.errors import CommandFailed
from finetune_cli.options import Context, Format, Kubeconfig, Output
from finetune_trainer.errors import InvalidSpec

NEXT = (
    "To check the job, run: ftj validate FILE",
    "To see whether it fits its GPU, run: ftj estimate FILE",
    "To start it, run: kubectl apply -f FILE",
)


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the FineTuneJob")],
    model: Annotated[str, typer.Option(metavar="SOURCE", help="base model, such as hf://org/name")],
    dataset: Annotated[
        str, typer.Option(metavar="SOURCE", help="training rows, such as hf://org/name")
    ],
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="FineTuneProfile of the job; default: the default profile of the cluster, if "
            "there is one",
        ),
    ] = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the manifest. Raises InvalidSpec for a value that no job can have, CommandFailed."""
    offered, why = _profiles(kubeconfig, context)
    chosen = _chosen(profile, offered, why)
    spec: dict[str, Any] = {} if profile is None else {"profile": profile}
    spec |= {"model": {"source": model}, "dataset": {"source": dataset}}
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": spec,
    }
    if problems := [*findings(manifest)]:
        raise InvalidSpec("; ".join(map(str, problems)))
    if output is Format.JSON:
        terminal.document(manifest)
        return
    for line in (*NEXT, *_about(chosen, offered, why)):
        print(f"# {printable(line)}")
    print(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), end="")


def _profiles(kubeconfig: Any, context: str | None) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Return the profiles that the user may use, or none and the reason."""
    try:
        from finetune_cli.cluster import api

        cluster = api.Cluster.of(kubeconfig, context, None)
        offered = cluster.items(api.path(PROFILE_PLURAL, api=api.JOBS))
        return [profile for profile in offered if _may_use(cluster, profile)], ""
    except CommandFailed as error:
        return (), str(error)
    except ModuleNotFoundError as error:
        return (), f"the package {error.name} is not installed"


def _may_use(cluster: Any, profile: Mapping[str, Any]) -> bool:
    """Report whether the user may use a profile in the namespace of the context."""
    attributes = {
        "verb": "use",
        "group": GROUP,
        "resource": PROFILE_PLURAL,
        "name": profile["metadata"]["name"],
        "namespace": cluster.namespace,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return bool(answer.get("status", {}).get("allowed"))


def _chosen(
    wanted: str | None, offered: Sequence[Mapping[str, Any]], why: str
) -> Mapping[str, Any] | None:
    """Return the profile of the job, None without one. Raises CommandFailed if it is unknown."""
    for profile in offered:
        metadata = profile["metadata"]
        default = (metadata.get("annotations") or {}).get(DEFAULT_ANNOTATION) == "true"
        if metadata["name"] == wanted or (wanted is None and default):
            return profile
    if wanted is not None and not why:
        names = ", ".join(sorted(profile["metadata"]["name"] for profile in offered))
        raise CommandFailed(
            f"{PROFILE_KIND} {wanted} does not exist, or you may not use it: "
            + (f"set --profile to one of {names}" if names else "you may use no profile")
        )
    return None


def _about(
    chosen: Mapping[str, Any] | None, offered: Sequence[Mapping[str, Any]], why: str
) -> Sequence[str]:
    if why:
        return [f"The profiles of the cluster are not known: {why}."]
    if chosen is None:
        names = ", ".join(sorted(profile["metadata"]["name"] for profile in offered))
        return [f"Profiles that you may use, for spec.profile: {names}."] if names else []
    spec = chosen.get("spec") or {}
    price = spec.get("price") or {}
    facts = (
        spec.get("description"),
        f"card {spec['card']}" if spec.get("card") else None,
        f"{price['perGpuHour']} {price['currency']} per GPU hour" if price else None,
    )
    return [f"Profile {chosen['metadata']['name']}: {'; '.join(filter(None, facts))}"]
