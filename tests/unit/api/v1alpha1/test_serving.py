"""``spec.serving.extraArgs``: permitted arguments are accepted and documented, others rejected."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from finetune_api.v1alpha1.serving import EXTRA_ARGUMENTS, Serving

DOCUMENT = Path(__file__).parents[4] / "docs" / "concepts" / "serving.md"


def test_documentation_lists_the_permitted_arguments() -> None:
    listed = re.search(r"## Extra arguments\n\n.*?```text\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert listed
    assert [word.removeprefix("--") for word in listed[1].split()] == list(EXTRA_ARGUMENTS)


@pytest.mark.parametrize(
    "argument",
    [
        "--trust-remote-code",
        "--host=0.0.0.0",
        "--model=/etc",
        "--max-num-seqs=8 --trust-remote-code",
        "--max-num-seqs=8\n--trust-remote-code",
        "--max-num-seqs=$(id)",
        "-tp=2",
        "max-num-seqs=8",
        "--Max-Num-Seqs=8",
        "--max_num_seqs=8",
    ],
)
def test_other_arguments_are_rejected(argument: str) -> None:
    with pytest.raises(ValidationError, match="extraArgs permits only arguments of vllm"):
        Serving.model_validate({"extraArgs": [argument]})


def test_permitted_arguments_are_accepted() -> None:
    Serving.model_validate({"extraArgs": [f"--{name}" for name in EXTRA_ARGUMENTS]})
    Serving.model_validate({"extraArgs": ["--block-size=32", "--max-num-seqs=16"]})
