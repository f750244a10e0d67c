"""What to do about a reason: the texts of docs/reference/reasons.md, for a terminal. Pure."""

import re

from finetune_api.crd.remediations import GROUPS
from finetune_api.v1alpha1.reasons import Reason

_LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
_FOLDER = "../"


def meaning(reason: str) -> str | None:
    """Return what a reason means; None for a reason of another version."""
    return _plain(Reason(reason).doc) if reason in set(Reason) else None


def remedy(reason: str) -> str | None:
    """Return frequent causes and the remedy; None if there is none."""
    texts = {str(key): text for group in GROUPS for key, text in group.texts.items()}
    return _plain(texts.get(reason, "")) or None


def _plain(markdown: str) -> str:
    """Return a text without the marks of Markdown; a link names its page."""
    linked = _LINK.sub(_named, markdown)
    return linked.replace("`", "").replace("\\*", "*")


def _named(link: re.Match[str]) -> str:
    """Return the words of a link and its page, in parentheses unless the link is inside some."""
    words, page = link[1], f"docs/{link[2].removeprefix(_FOLDER)}"
    before = _LINK.sub("", link.string[: link.start()])
    inside = before.count("(") > before.count(")")
    return f"{words}: {page}" if inside else f"{words} ({page})"
