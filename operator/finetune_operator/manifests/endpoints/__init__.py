"""Render the objects of a FineTuneEndpoint; no decisions."""
