"""The Deployments of a job's builds, and the Service that selects one of them. Pure."""
