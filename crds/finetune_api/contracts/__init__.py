"""Documents that the operator, the trainer and the verifier exchange."""
