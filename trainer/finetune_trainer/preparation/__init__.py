"""The ``prepare`` stage: checks, downloads and tokenizes base and data without a GPU."""
