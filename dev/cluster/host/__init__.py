"""The machine of the cluster: processes, cgroups, mounts, network and files."""
