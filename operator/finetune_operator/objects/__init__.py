"""Facts about Kubernetes objects, which are dicts. Pure."""
