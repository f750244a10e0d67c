"""The verify container: beside vLLM in the serving pod, ready only when the right model answers.

It knows neither torch nor Kubernetes: it reads the volume, talks to vLLM on localhost, and answers
the kubelet's probe.
"""
