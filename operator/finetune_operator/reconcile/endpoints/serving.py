"""The serving pod of an endpoint, and the objects that it needs. Pure."""

from finetune_api.v1alpha1.endpoints.status import PreparedBase, ServingPods, WantedNames
from finetune_operator.actions import Action, Apply
from finetune_operator.manifests.endpoints import network, objects, serving
from finetune_operator.objects.digest import sha256
from finetune_operator.reconcile.endpoints.names import Names, signed
from finetune_operator.reconcile.endpoints.parts import Parts


def pods(parts: Parts, base: PreparedBase, number: WantedNames) -> ServingPods:
    """Return the pods to render. Only a change of the rest of the template changes the number."""
    template = serving.template(
        parts.endpoint, parts.target, base, public_key=parts.public_key, sequence=0
    )
    digest, before = sha256(template), parts.previous.pods
    if before is not None and before.digest == digest:
        return before
    return ServingPods(digest=digest, sequence=number.sequence)


def policy_of_base(parts: Parts) -> Action:
    """Return the action that limits the connections of the pod that prepares the base."""
    return Apply(object=network.preparing(parts.endpoint, parts.target))


def actions(
    parts: Parts, base: PreparedBase, wanted: Names, number: WantedNames, rendered: ServingPods
) -> list[Action]:
    """Return the actions that create or change these objects; the pod comes last."""
    endpoint = parts.endpoint
    document = signed(endpoint["metadata"]["uid"], wanted, number, parts.key)
    deployment = serving.deployment(
        endpoint,
        parts.target,
        base,
        public_key=parts.public_key,
        sequence=rendered.sequence,
        replicas=parts.replicas,
    )
    return [
        Apply(object=desired)
        for desired in (
            network.serving(endpoint, parts.target),
            objects.configmap(endpoint, document),
            objects.service(endpoint),
            objects.budget(endpoint),
            deployment,
        )
    ]
