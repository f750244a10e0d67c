"""A small hub-compatible server and the content that the local cluster serves with it."""
