"""Ports on which the pods of a job serve their Prometheus metrics.

The trainer and the verifier listen on them, and the operator reads the metrics. NetworkPolicies
allow this traffic.
"""

TRAINER_METRICS = 9400
VERIFIER_METRICS = 9401
