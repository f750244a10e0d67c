"""``make mutants``: how many small faults, planted in the pure packages, the unit tests notice."""
