"""Commands that a person runs on a workstation."""
