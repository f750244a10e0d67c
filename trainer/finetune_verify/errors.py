"""Errors of a verification."""


class Mismatch(Exception):
    """The served model is not the trained one; the text names the failed check, with numbers."""


class BaseDiffers(Mismatch):
    """The base answers differently while an adapter decodes, whichever adapter that is."""


class InvalidKey(Exception):
    """The API key of the endpoint cannot be used; the text names the field, never the value."""


class Unavailable(Exception):
    """vLLM does not answer at the moment; retry later."""
