"""What to do about each reason: the groups of docs/reference/reasons.md, with their texts.

``Reason.doc`` states the meaning. The texts here name frequent causes and the remediation.
"""

from finetune_api.crd.remediations.failures import FAILED, RETRIED
from finetune_api.crd.remediations.other import (
    BUDGETS,
    ENDPOINTS,
    EVENTS,
    LOGS,
    OTHER,
    PROFILES,
)
from finetune_api.crd.remediations.waiting import PROGRESS, WAITING

GROUPS = (PROGRESS, WAITING, FAILED, RETRIED, EVENTS, OTHER, PROFILES, BUDGETS, ENDPOINTS, LOGS)
