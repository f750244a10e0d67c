"""``spec.publish`` and ``spec.tracking``, and the ledger of what is published."""
