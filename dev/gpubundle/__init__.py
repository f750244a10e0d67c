"""The archive of ``make gpu-bundle``: ``bench/gpu`` for a machine with a GPU and no network."""
