"""Publishing in an OCI registry: the image of a model, and the signed statements about it."""
