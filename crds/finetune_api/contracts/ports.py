"""Ports on which the pods of a job serve their Prometheus metrics.

The trainer and the verifier listen on them, the NetworkPolicies open them, the operator reads them.
"""

TRAINER_METRICS = 9400
VERIFIER_METRICS = 9401
