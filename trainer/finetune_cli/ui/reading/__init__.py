"""Reads the cluster, with the rights of the user, for one page each."""
