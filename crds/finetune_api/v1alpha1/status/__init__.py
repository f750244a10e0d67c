"""``status`` of a FineTuneJob, and the ledger of its revisions."""
