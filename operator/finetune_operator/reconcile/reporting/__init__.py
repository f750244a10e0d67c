"""What users read of a decision: the status with its columns, and the events of its changes."""
