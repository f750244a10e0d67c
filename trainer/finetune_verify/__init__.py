"""The verify container, next to vLLM in the serving pod: ready only if vLLM serves the tuned model.

It imports neither torch nor Kubernetes. It reads the volume, calls vLLM on localhost, and answers
the kubelet's readiness probe.
"""
