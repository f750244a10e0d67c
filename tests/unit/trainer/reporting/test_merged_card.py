"""The card of a merged model names the adapter that its training continued from."""

from typing import Any

import pytest
from tests.support.trainer import tiny

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.reporting import merged_card

FACTS: dict[str, Any] = {
    "source": "hf://demo/tiny",
    "baseCommit": "c" * 40,
    "base": "original",
    "datasetDigest": "sha256:1",
    "adapter": "sha256:2",
    "dtype": "bfloat16",
    "images": {},
}
START = {"source": "pvc://parent/adapter", "commit": "d" * 40, "digest": "sha256:3"}


@pytest.mark.parametrize("commit", [START["commit"], None])
def test_adapter_to_continue_from_is_in_the_card(commit: str | None) -> None:
    job = JobConfig.model_validate(tiny.job("hf://demo/tiny", "hf://demo/rows"))
    card = merged_card.render(job, "b1", FACTS | {"startFrom": START | {"commit": commit}})
    assert "| continued from | `pvc://parent/adapter` |" in card
    assert "| digest of that adapter | `sha256:3` |" in card
    assert ("| commit of that adapter |" in card) == (commit is not None)
    assert "continued from" not in merged_card.render(job, "b1", FACTS)
