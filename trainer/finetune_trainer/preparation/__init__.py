"""The prepare command: base and data checked, estimated, downloaded and tokenized on a CPU."""
