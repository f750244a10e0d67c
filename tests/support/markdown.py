"""The code blocks of Markdown pages."""

import re
import textwrap
from collections.abc import Iterator

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> Iterator[str]:
    """Yield the code blocks of a page in these languages, without the indentation of list items."""
    for _, language, block in _BLOCK.findall(text):
        if language in languages:
            yield textwrap.dedent(block)
