"""``FineTuneEndpoint``: one vLLM on one GPU that serves the adapters of several jobs."""
