"""What `make venv`, `make check` and `make test` do. Standard library only, like dev/cluster."""
