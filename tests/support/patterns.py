"""Patterns of the policy, and values to match."""

from hypothesis import strategies as st

from finetune_api.policy.patterns import MAX_LENGTH

ATOMS = st.sampled_from(
    ["a", "b", "-", "/", ".", r"\.", r"\\", "[ab]", "[^a]", "[a-c]", "[a-]", "[-a]", "[^.a-b-]"]
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    atom = ATOMS | inner.map(lambda text: f"({text})")
    part = st.tuples(atom, st.sampled_from(["", "", "*", "+", "?"])).map("".join)
    sequence = st.lists(part, max_size=4).map("".join)
    return st.lists(sequence, min_size=1, max_size=2).map("|".join)


PATTERNS = st.recursive(ATOMS, _grown, max_leaves=8).filter(
    lambda text: 0 < len(text) <= MAX_LENGTH
)
"""Patterns of the common syntax."""
VALUES = st.text("abc-/.\\\nd", max_size=8)
