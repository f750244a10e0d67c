"""Errors of a verification."""


class Mismatch(Exception):
    """The served model is not the trained one; the text names the failed check, with numbers."""


class Unavailable(Exception):
    """vLLM does not answer at the moment; retry later."""
