"""Draw the pictures of ``ftj ui`` in README and documentation, from a running cluster."""
