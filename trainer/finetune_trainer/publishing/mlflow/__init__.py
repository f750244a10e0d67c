"""Sending the results of a training to an MLflow tracking server."""
