"""Signed provenance: what the ledger proves about a published model, as a statement for others.

Pure: values in, documents out. A value that the ledger does not have is left out.
"""
