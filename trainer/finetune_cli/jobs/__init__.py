"""The verbs on jobs in a cluster, each in a module with ``run``."""
