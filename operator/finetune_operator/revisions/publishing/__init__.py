"""What targets hold of the revisions, and what an attempt at publishing leaves. Pure."""
