"""The server of a URL: credentials are sent to one server alone."""

import pytest

from finetune_trainer.sources.origin import origin


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("https://hub.example.com", "https://hub.example.com:443/a/b", True),
        ("https://HUB.example.com/", "HTTPS://hub.Example.com", True),
        ("http://hub.example.com:80", "http://hub.example.com", True),
        ("http://hub.example.com", "https://hub.example.com", False),
        ("http://hub.example.com:443", "http://hub.example.com", False),
        ("https://hub.example.com:8443", "https://hub.example.com", False),
        ("https://hub.example.com.", "https://hub.example.com", False),
        ("https://hub.example.com@evil.example.com", "https://hub.example.com", False),
    ],
)
def test_origin(first: str, second: str, same: bool) -> None:
    assert (origin(first) == origin(second)) is same
