"""The target revision of a job, the ledger of earlier ones, and their retention. Pure."""
