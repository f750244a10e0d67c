"""How many objects a page of a list has: as many as fit a number of bytes.

Users decide how large an object is, up to 1.5 MB, and parsing needs up to 30 times the bytes of the
text: an empty list takes 3 bytes of JSON, and 64 bytes of memory. So a page is parsed only if its
text is short, or if it contains a single object; otherwise it is requested again with fewer
objects. Pure.
"""

PAGE = 100
"""Objects of a page at most: the API server must encode even 150 MB within the timeout."""
KOPF_PAGE = 50
"""Of a list of kopf, which reads each text to its end."""
PAGE_BYTES = 2 << 20
FIRST = 10
"""Objects of the first page."""


class PageTooLarge(Exception):
    """A page must be requested again with fewer objects."""


class PageSize:
    """The number of objects to request: ``now``, and at most ``most``. For one list at a time."""

    def __init__(self, most: int, *, first: int = FIRST) -> None:
        self._most = most
        self.now = min(first, most)

    @property
    def most_bytes(self) -> int | None:
        """Bytes of a page that ``check`` needs: a longer one is not read to its end. None: all."""
        return PAGE_BYTES + 1 if self.now > 1 else None

    def check(self, length: int) -> None:
        """Choose the size of the next page. Raise PageTooLarge if this one must not be parsed.

        length: bytes of the text of a page of the present size, or ``most_bytes``.
        """
        if length > PAGE_BYTES and self.now > 1:
            self.now = max(1, self.now * PAGE_BYTES // (2 * length))
            raise PageTooLarge
        if 4 * length <= PAGE_BYTES:
            self.now = min(self._most, 2 * self.now)
