"""Requests of callers: the fields and bodies that may pass, and the way to vLLM and back."""
