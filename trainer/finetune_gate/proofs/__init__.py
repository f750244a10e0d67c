"""The proof that a loaded adapter is the trained one, while others decode."""
