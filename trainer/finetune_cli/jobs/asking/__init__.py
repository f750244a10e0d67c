"""The verbs that ask a served model."""
