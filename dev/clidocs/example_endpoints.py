"""A FineTuneEndpoint of the examples: two names answer, and one was not verified."""

from __future__ import annotations

from clidocs.example_jobs import NAMESPACE, PRESENT, Object, ago

ENDPOINTS = "/apis/finetune.dev/v1alpha1/finetuneendpoints"
ENDPOINTS_OF_NAMESPACE = f"/apis/finetune.dev/v1alpha1/namespaces/{NAMESPACE}/finetuneendpoints"
MESSAGE = (
    "2 of 3 names answer. Name tickets was not verified: the distance 0.31 nats exceeds the "
    "tolerance 0.034 nats."
)


def _model(name: str, state: str, **more: str) -> Object:
    return {
        "name": name,
        "job": name.partition("-")[0],
        "revision": f"{PRESENT}{'0' * 56}",
        "adapter": "7d" * 32,
        "state": state,
        **more,
    }


ENDPOINT: Object = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneEndpoint",
    "metadata": {
        "name": "assistants",
        "namespace": NAMESPACE,
        "uid": "uid-assistants",
        "generation": 1,
    },
    "spec": {"model": {"source": "hf://org/base-8b"}, "lora": {"maxAdapters": 8}},
    "status": {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "VerificationFailed",
                "message": MESSAGE,
                "observedGeneration": 1,
                "lastTransitionTime": ago(20),
            }
        ],
        "endpoint": f"http://assistants-endpoint.{NAMESPACE}.svc:8000/v1",
        "summary": "2/3",
        "freeSlots": 5,
        "selfTest": "Passed",
        "models": [
            _model(
                "orders",
                "Serving",
                outcome="Verified",
                distance="0.012",
                tolerance="0.034",
                smallestFault="0.08",
                answers="7d" * 32,
            ),
            _model(
                "orders-de",
                "Serving",
                outcome="Verified",
                distance="0.015",
                tolerance="0.034",
                answers="7d" * 32,
            ),
            _model(
                "tickets",
                "Failed",
                distance="0.31",
                tolerance="0.034",
                message="The distance 0.31 nats exceeds the tolerance 0.034 nats.",
            ),
        ],
    },
}
COLLECTIONS = {ENDPOINTS: [ENDPOINT], ENDPOINTS_OF_NAMESPACE: [ENDPOINT]}
