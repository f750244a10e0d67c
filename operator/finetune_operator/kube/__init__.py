"""The Kubernetes API: credentials, transport, verbs, kinds, errors and events. I/O."""
