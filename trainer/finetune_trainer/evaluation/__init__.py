"""Reference scores of the tuned model, and its held-out loss compared with the base."""
