"""The parts that reconcile our own kinds: a module for each kind, connected by ``build``."""
