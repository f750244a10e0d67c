"""How the pods of a job serve their Prometheus metrics.

The trainer and the verifier listen on these ports, and the operator reads the metrics.
NetworkPolicies allow this traffic. Each pod publishes its uid as ``finetune_pod_info{uid="…"} 1``:
addresses are reused, and the uid shows which pod answered.
"""

TRAINER_METRICS = 9400
VERIFIER_METRICS = 9401
POD_UID_VARIABLE = "FINETUNE_POD_UID"
"""Environment variable of the container that publishes the uid."""
