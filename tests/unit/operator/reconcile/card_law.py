"""The law of cards: a training resumes only on the card that saved its checkpoint."""

from tests.fakes.apiserver import Thing

from finetune_operator.manifests.gpu.node_labels import values_of
from finetune_operator.objects import naming


def resumes_on_its_card(job: Thing, status: Thing, spec: Thing) -> None:
    """Assert that a train Job requires the card in the ledger, unless a queue selects the nodes."""
    labels = job["metadata"]["labels"]
    recorded = {each["revision"]: each.get("card") for each in status["revisions"]}
    card = recorded.get(labels[naming.REVISION])
    if labels[naming.STAGE] != "train" or card is None or spec.get("queueName"):
        return
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    required = {
        expression["key"]: expression["values"]
        for term in terms
        for expression in term["matchExpressions"]
    }
    assert required == values_of([card]), job["metadata"]["name"]
