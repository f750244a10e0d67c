"""Which build may use the GPU while a train pod needs it."""
