"""Why a pod does not run: the cause, the cluster's message and the remediation."""
