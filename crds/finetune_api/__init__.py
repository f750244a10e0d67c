"""The FineTuneJob API: its types, its CustomResourceDefinition, and the inter-process contracts.

``v1alpha1`` declares spec and status; ``crd`` renders them as the CustomResourceDefinition and the
reference documentation; ``defaulting`` completes a user's spec; ``contracts`` defines the documents
that operator and trainer exchange. Everything here is pure and depends on pydantic alone.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
API_VERSION = f"{GROUP}/{VERSION}"
