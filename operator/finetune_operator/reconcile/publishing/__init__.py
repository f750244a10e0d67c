"""Publishing: the stage beside the endpoint, which copies a complete model to targets outside."""
