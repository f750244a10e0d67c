"""How the pods of a job serve their Prometheus metrics.

The trainer and the verifier listen on these ports, and the operator reads the metrics.
NetworkPolicies allow this traffic. Each pod publishes its uid as ``finetune_pod_info{uid="…"} 1``:
addresses are reused, and the uid shows which pod answered.
"""

TRAINER_METRICS = 9400
VERIFIER_METRICS = 9401
"""The gate of a shared endpoint also uses it, for probes and the operator."""
GATE = 8000
"""Port of the gate for callers."""
POD_UID_VARIABLE = "FINETUNE_POD_UID"
"""Environment variable of the container that publishes the uid."""
