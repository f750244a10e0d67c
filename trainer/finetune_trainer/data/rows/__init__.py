"""Reads rows: files, formats, columns, messages and tools."""
