"""Every reason is a member of ``Reason``, has a documentation line, and is used by code."""

import ast

from tests.unit.docs.reasons import literals, modules, named

from finetune_api.v1alpha1.reasons import Reason, Use


def test_code_gives_members_and_no_literals() -> None:
    found = {path: list(literals(tree)) for path, tree in modules().items()}
    assert not {path: words for path, words in found.items() if words}


def test_the_scan_for_literals_finds_each_form() -> None:
    source = """
f(reason="Keyword")
{"reason": "Key"}
reason = "Name"
self.reason = "Attribute" if wrong else other
changes["reason"] = "Subscript"
reason, message = "Pair", f"a {message}"
reason: str = "Annotated"
def f(*, reason: str = "Default"): ...
other = "Unrelated"
if reason == "Compared": ...
"""
    words = ["Keyword", "Key", "Name", "Attribute", "Subscript", "Pair", "Annotated", "Default"]
    assert sorted(literals(ast.parse(source))) == sorted(words)


def test_every_member_is_given_by_code() -> None:
    assert {reason.name for reason in Reason} == named()


def test_every_member_has_a_documentation_line_and_a_use() -> None:
    for reason in Reason:
        assert reason.doc.endswith("."), reason
        assert "\n" not in reason.doc
        assert len(set(reason.uses)) == len(reason.uses) > 0
        assert set(reason.uses) <= set(Use)
        # A CamelCase word, as the API conventions ask for.
        assert reason.value.isalnum()
        assert reason.value[0].isupper()
