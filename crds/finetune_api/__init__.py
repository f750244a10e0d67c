"""The FineTuneJob API: its models, its schema, and the contracts that cross a process boundary.

``spec`` and ``status`` are the resource; ``schema`` and ``crd`` render them as the
CustomResourceDefinition in ``crds/``; ``resolve`` turns what a user wrote into what is run;
``job``, ``result`` and ``exitcodes`` are what the operator and the trainer say to each other.
Everything here is pure and depends on pydantic alone.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
API_VERSION = f"{GROUP}/{VERSION}"
