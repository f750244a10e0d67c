"""Keys of labels that the operator sets on the objects of a job (docs/reference/labels.md)."""

from finetune_api import GROUP

JOB = f"{GROUP}/job"
REVISION = f"{GROUP}/revision"
ENDPOINT = f"{GROUP}/endpoint"
