"""A small hub-compatible server, and its content for the local cluster."""
