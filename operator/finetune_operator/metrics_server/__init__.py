"""The server of ``/metrics``, with authentication and authorization by the API server."""
