"""The commands `make venv`, `make check` and `make test`, with the standard library only."""
