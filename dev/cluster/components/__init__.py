"""The components of the cluster: control plane, node, add-ons, hub."""
