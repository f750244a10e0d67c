"""``make mutants``: count the small faults in the pure packages that the unit tests detect."""
