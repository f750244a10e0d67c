"""A library, a server or a traceback prints a credential; no text of the process contains it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.attacks.credentials import (
    EMPTY,
    KUBECONFIG,
    TOKEN,
    UNUSABLE,
    USABLE,
    forms,
    leaks,
    random_text,
)
from tests.support.trainer import tiny

from finetune_api.contracts import termination
from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.result import PrepareArtifacts, Result
from finetune_api.safety import credentials, redaction
from finetune_api.safety.credentials import InvalidCredential
from finetune_api.v1alpha1.data.statistics import SourceRecord
from finetune_trainer.reporting import model_card
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.reporting.model_card import TrainingReport

pytestmark = pytest.mark.finding(1, "a Secret's content is published")

VARIABLES = (
    "MODEL_HF_TOKEN",
    "DATASET_HTTPS_TOKEN",
    "EVALUATION_DATASET_HF_TOKEN",
    "MODEL_AWS_ACCESS_KEY_ID",
    "DATASET_AWS_SECRET_ACCESS_KEY",
    "MODEL_AWS_SESSION_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "VLLM_API_KEY",
)
VALUES = USABLE | UNUSABLE


@pytest.mark.parametrize("form", forms(""))
@pytest.mark.parametrize("shape", VALUES)
def test_value_is_masked_in_every_form(
    monkeypatch: pytest.MonkeyPatch, shape: str, form: str
) -> None:
    value = VALUES[shape]
    monkeypatch.setenv("DATASET_HF_TOKEN", value)
    text = f"LocalProtocolError: Illegal header value b'Bearer {forms(value)[form]}' (at 0x7f)"
    masked = redaction.mask(text)
    assert leaks(masked, value) == []
    assert redaction.MASK in masked
    assert masked.startswith("LocalProtocolError: Illegal header value b'Bearer ")
    assert masked.endswith("' (at 0x7f)")


@pytest.mark.parametrize("variable", VARIABLES)
def test_values_of_all_credential_variables_are_masked(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, TOKEN)
    assert redaction.mask(f"<{TOKEN}>") == f"<{redaction.MASK}>"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "HF_ENDPOINT"])
def test_password_in_a_url_of_the_environment_is_masked(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://builder:p%40ss-w0rd-2931@proxy.internal:3128")
    for text in ("p%40ss-w0rd-2931", "p@ss-w0rd-2931", "YnVpbGRlcjpwQHNzLXcwcmQtMjkzMQ=="):
        masked = redaction.mask(f"407 from the proxy for {text}, giving up")
        assert leaks(masked, "p@ss-w0rd-2931") == leaks(masked, "p%40ss-w0rd-2931") == []


@pytest.mark.parametrize(
    "text",
    [
        "GET https://bucket.s3/key?X-Amz-Credential=AKIA2&X-Amz-Signature={} failed",
        "https://bucket.s3/key?x=1&X-Amz-Security-Token={}",
        "https://storage/o/key?X-Goog-Signature={}&x=1",
        "https://cdn/file?Expires=1&Signature={}&Key-Pair-Id=K2",
        "https://account.blob/c/file?sv=2022&sig={}",
        "https://server/file?access_token={}",
        "https://user:{}@server/file",
        "https://{}@server/file",
        "headers: {{'Authorization': 'Bearer {}'}}",
        "Proxy-Authorization: Basic {}",
    ],
)
def test_credential_that_the_environment_does_not_hold_is_masked(text: str) -> None:
    secret = random_text("signature", 43).replace("/", "_")
    assert leaks(redaction.mask(text.format(secret)), secret) == []


@settings(max_examples=200)
@given(st.data())
def test_no_form_is_left_in_random_text(data: st.DataObject) -> None:
    """Values overlap, touch other text and appear several times."""
    visible = st.characters(min_codepoint=33, max_codepoint=126)
    value = data.draw(st.text(visible, min_size=12, max_size=60), label="value")
    around = st.text(st.characters(codec="utf-8"), max_size=30)
    text = data.draw(around)
    for form in data.draw(st.lists(st.sampled_from(sorted(forms(value))), max_size=4)):
        text += forms(value)[form] + data.draw(around)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_HF_TOKEN", value)
        masked = redaction.mask(text)
    assert [name for name, form in forms(value).items() if form in masked] == []


def test_value_is_masked_before_the_text_is_shortened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The 4,096 bytes of a termination message end in the middle of a value."""
    value = UNUSABLE["PEM"]
    monkeypatch.setenv("MODEL_HF_TOKEN", value)
    monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "message"))
    for before in range(0, 4200, 350):
        result = Result(
            stage="prepare",
            outcome="failed",
            reason="Transient",
            message="x" * before + value,
            warnings=[value, f"the server said {value!r}"],
            artifacts=PrepareArtifacts(
                base_commit=value,
                sources=[
                    SourceRecord(
                        dataset="dataset", split=value, file_count=1, files=[json.dumps(value)]
                    )
                ],
            ),
        )
        termination.write(result, pytest.fail)
        assert leaks((tmp_path / "message").read_text(), value) == []
    for limit in range(0, 1800, 40):
        assert leaks(redaction.one_line("x" * 100 + value, limit), value) == []


@pytest.mark.parametrize("word", ["prepare", "failed", "Transient", "message"])
def test_value_that_is_a_word_of_the_result_does_not_break_the_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str
) -> None:
    monkeypatch.setenv("MODEL_HF_TOKEN", word)
    monkeypatch.setenv("FINETUNE_TERMINATION_LOG", str(tmp_path / "message"))
    result = Result(
        stage="prepare", outcome="failed", reason="Transient", message=f"the hub said {word}"
    )
    termination.write(result, pytest.fail)
    read = Result.from_message((tmp_path / "message").read_text())
    assert read is not None
    assert (read.stage, read.outcome, read.reason) == ("prepare", "failed", "Transient")
    assert read.message == f"the hub said {redaction.MASK}"


SCRIPT = """
import logging, sys, threading, warnings
from finetune_api.safety import redaction
redaction.install()
import os
value = os.environ["MODEL_HF_TOKEN"]
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("httpx").info("HTTP Request: GET https://hub %r", value)
logging.getLogger("botocore").debug("Bearer %s", value)
try:
    raise ValueError(value)
except ValueError:
    logging.exception("failed with %s", [value])
warnings.warn(value)
print("progress", value, end="\\r")
print(value[:9], value[9:], sep="", file=sys.stderr)
sys.stdout.writelines([value, "\\n"])
thread = threading.Thread(target=lambda: {}[value])
thread.start()
thread.join()
sys.stderr.write("incomplete " + value)
raise RuntimeError(f"Illegal header value {value.encode('utf-8', 'surrogateescape')!r}")
"""


@pytest.mark.parametrize("shape", [shape for shape in VALUES if shape != "1 MB"])
def test_no_output_of_a_process_has_the_value(shape: str) -> None:
    """Loggers, warnings, prints in parts, and tracebacks of all threads.

    The kernel accepts at most 128 KiB in an environment variable, so there is no case of 1 MB.
    """
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"MODEL_HF_TOKEN": VALUES[shape], "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=False,
    )
    output = (ended.stdout + ended.stderr).decode(errors="surrogateescape")
    assert ended.returncode == 1
    for said in ("HTTP Request", "UserWarning", "Exception in thread", "RuntimeError", "progress"):
        assert said in output
    assert leaks(output, VALUES[shape]) == []


@pytest.mark.parametrize("shape", UNUSABLE | EMPTY)
def test_unusable_value_is_rejected_without_being_quoted(shape: str) -> None:
    value = (UNUSABLE | EMPTY)[shape]
    with pytest.raises(InvalidCredential) as caught:
        credentials.checked(value, what="the token", field="model.tokenSecretRef")
    text = str(caught.value)
    assert text.startswith("the token in model.tokenSecretRef ")
    assert "name that in model.tokenSecretRef" in text
    assert leaks(text, value) == []


@pytest.mark.parametrize("shape", USABLE)
def test_surrounding_white_space_is_removed(shape: str) -> None:
    assert credentials.checked(USABLE[shape], what="a", field="b") == TOKEN


def test_ordinary_text_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_HF_TOKEN", "a")
    monkeypatch.setenv("DATASET_HF_TOKEN", KUBECONFIG)
    text = "base demo/tiny is already on the volume, at commit 0123456789ab: https://hub/a?b=c#d"
    assert redaction.mask(text) == text


def test_model_card_does_not_have_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a workstation, the process that writes the card has the token in its environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    facts: dict[str, Any] = dict.fromkeys(
        ("rows", "validationRows", "droppedRows", "trainTokens", "trainedTokens", "globalStep"), 1
    )
    job = tiny.job("hf://demo/tiny", "hf://demo/rows")
    card = model_card.render(
        TrainingReport(
            job=JobConfig.model_validate(job),
            base={"source": f"https://user:{TOKEN}@host/SHA256SUMS", "baseCommit": "0" * 40},
            data=facts | {"sourceDigest": TOKEN, "template": f"template of {TOKEN!r}"},
            trained=facts
            | {"loss": 1.0, "evalLoss": None, "microBatch": 1, "gpuSeconds": 1.0, "device": TOKEN}
            | {"datasetDigest": quote(TOKEN, safe=""), "attention": "sdpa", "versions": {"x": "1"}}
            | {"images": {"prepare": TOKEN}},
            history=LossHistory(),
            peak=None,
        )
    )
    assert card.count(redaction.MASK) >= 4
    assert leaks(card, TOKEN) == []
