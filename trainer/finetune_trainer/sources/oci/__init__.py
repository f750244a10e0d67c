"""Images in OCI registries: how they are read, and the client that publishing uses, too."""
