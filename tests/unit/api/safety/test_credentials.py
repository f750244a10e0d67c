"""Which environment variables hold credentials, and which values are valid."""

import pytest

from finetune_api.safety import credentials
from finetune_api.safety.credentials import InvalidCredential, checked

FIELD = "spec.model.tokenSecretRef"
REMEDIATION = (
    f"store it as one line of visible ASCII characters in another Secret or key, and name that in "
    f"{FIELD}"
)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("a" * 8193, "has more than 8,192 characters"),
        ("a\nb", "contains a line break"),
        ("a\rb", "contains a line break"),
        ("a b", "contains white space or characters that are not visible ASCII"),
        ("a\x7f", "contains white space or characters that are not visible ASCII"),
        ("ä", "contains white space or characters that are not visible ASCII"),
    ],
)
def test_invalid_credential_is_never_quoted(value: str, problem: str) -> None:
    with pytest.raises(InvalidCredential) as error:
        checked(value, what="The token", field=FIELD)
    assert str(error.value) == f"The token in {FIELD} {problem}: {REMEDIATION}"


@pytest.mark.parametrize("value", ["x", "!~", "a" * 8192])
def test_valid_credential_is_returned_without_white_space_around_it(value: str) -> None:
    assert checked(f" {value}\n", what="The token", field=FIELD) == value
    assert checked(value, what="The token", field=FIELD, strip=False) == value
    with pytest.raises(InvalidCredential):
        checked(f"{value}\n", what="The token", field=FIELD, strip=False)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("TOKEN", "x", ["x"]),
        ("HF_TOKEN", "x", ["x"]),
        ("aws_secret_access_key", "x", ["x"]),
        ("S3_ACCESS_KEY_ID", "x", ["x"]),
        ("VLLM_API_KEY", "x", ["x"]),
        ("SECRET_KEY", "x", ["x"]),
        ("MY_PRIVATE_KEY", "x", ["x"]),
        ("PASSWORD", "x", ["x"]),
        ("CLIENT_SECRET", "x", ["x"]),
        ("TOKENIZERS_PARALLELISM", "x", []),
        ("MONKEY", "x", []),
        ("PROXY", "http://user:a%2Fb@proxy:3128", ["a%2Fb", "a/b"]),
        ("PROXY", "http://t%2Fk@proxy", ["t%2Fk", "t/k"]),
        ("PROXY", "http://proxy/a@b", []),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", '{"auths": {"r": {"password": "x"}}}', ["x"]),
        (
            "PUBLISH_A_DOCKER_CONFIG_JSON",
            '{"auths": {"r": {"auth": "dTp4Onk="}}}',
            ["dTp4Onk=", "x:y"],
        ),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", '{"auths": {"r": {"auth": "%"}, "s": "x"}}', ["%", "x"]),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", '{"auths": {"r": {"identitytoken": "x"}}}', ["x"]),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", '{"auths": {"r": {"registrytoken": "x"}}}', ["x"]),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", '{"auths": []}', ['{"auths": []}']),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", "password", ["password"]),
        ("PUBLISH_A_DOCKER_CONFIG_JSON", "[" * 100_000, ["[" * 100_000]),
    ],
)
def test_credentials_of_an_environment(name: str, value: str, found: list[str]) -> None:
    assert [*credentials.values({name: value})] == found


def test_targets_have_different_variables() -> None:
    names = ["a", "a-b", "a--b", "ab", "a-aws", "b"]
    keys = (credentials.DOCKER_CONFIG, *credentials.S3_KEYS)
    variables = {credentials.of_target(name) + key for name in names for key in keys}
    assert len(variables) == len(names) * len(keys)
    assert all(
        [*credentials.values({name: "x"})] == ["x"] for name in variables if "ACCESS" in name
    )
