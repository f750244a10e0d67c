"""A job author names any key of any Secret as the API key; the verifier publishes nothing of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.attacks.credentials import EMPTY, UNUSABLE, USABLE, leaks
from tests.support.variants import variants

pytestmark = pytest.mark.finding(1, "a Secret's content is published")

# vLLM compares the whole value, so surrounding white space makes a key unusable.
VALUES = UNUSABLE | EMPTY | {shape: USABLE[shape] for shape in USABLE if shape != "one line"}


@pytest.mark.parametrize(
    "shape",
    variants([shape for shape in VALUES if shape != "1 MB"], kept=["PEM", "not UTF-8", "empty"]),
)
def test_unusable_api_key_ends_the_verifier(tmp_path: Path, shape: str) -> None:
    message = tmp_path / "message"
    words = [sys.executable, "-m", "finetune_verify", "--revision", "0" * 64]
    words += ["--work", str(tmp_path), "--build", "b1", "--model", "tiny"]
    words += ["--served-manifest", "0" * 64, "--adapter-manifest", "0" * 64]
    ended = subprocess.run(
        words,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FINETUNE_TERMINATION_LOG": str(message),
            "VLLM_API_KEY": VALUES[shape],
        },
        capture_output=True,
        check=False,
    )
    output = (ended.stdout + ended.stderr).decode(errors="surrogateescape")
    assert ended.returncode == 77, output
    result = json.loads(message.read_text())
    assert (result["stage"], result["reason"]) == ("verify", "AccessDenied")
    assert result["message"].startswith("the API key in serving.apiKeySecretRef ")
    assert "Traceback" not in output
    assert leaks(f"{output}\n{message.read_text()}\n{result['message']}", VALUES[shape]) == []
