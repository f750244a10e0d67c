"""The local cluster: a single-node Kubernetes built from source, without Docker.

Runnable as ``python3 dev/cluster <command>`` with the standard library alone, because it runs
before any virtual environment exists.
"""
