"""Writes docs/reference/axolotl-examples.md: the import of Axolotl's example configurations.

The configurations are not part of this repository. ``python -m axolotldocs CHECKOUT`` reads them
from a clone of Axolotl. The page contains their names and the names of their settings, no values.
"""
