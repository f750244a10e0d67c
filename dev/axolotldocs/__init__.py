"""Writes docs/reference/axolotl-examples.md: the import of Axolotl's example configurations."""
