"""What ends a verification other than agreement."""


class Mismatch(Exception):
    """What is served is not what was trained; the text says which check found it, with numbers."""


class Unavailable(Exception):
    """vLLM does not answer now; ask again later."""
