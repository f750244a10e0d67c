"""The container beside vLLM that verifies what is served; the pod is ready when it agrees."""

PORT = 9401
