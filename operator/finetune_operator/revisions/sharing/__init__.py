"""FineTuneEndpoints: their settings, and the models that jobs have published to them. Pure."""
