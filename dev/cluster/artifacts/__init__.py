"""Programs and images of the cluster: built from source, cached, served by a local registry."""
