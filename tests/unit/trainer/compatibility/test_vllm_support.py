"""The table of the families that vLLM loads: what the status says about a base."""

import pytest

from finetune_api.contracts.stage_request import ServingSettings
from finetune_trainer.compatibility import vllm_support
from finetune_trainer.compatibility.vllm_support import Table
from finetune_trainer.estimate.budget import EstimateOptions

SERVES = EstimateOptions(serving=ServingSettings(max_model_len=None, gpu_memory_utilization=0.9))
TABLE = Table(
    vllm="1.2",
    families={
        "own": "yes",
        "borrowed": "transformers",
        "other": "fallback",
        "gone": "GoneForCausalLM was supported until v1.1",
    },
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_support, "table", lambda: TABLE)


def test_family_that_vllm_does_not_load_gives_a_warning_with_the_remediation() -> None:
    assert vllm_support.warnings(SERVES, {"model_type": "gone"}) == [
        "vLLM 1.2 does not serve model family gone (GoneForCausalLM was supported until v1.1): set "
        "serving.enabled to false, unless the chart value serving.image is another version, which "
        "serves it"
    ]


@pytest.mark.parametrize("family", ["own", "borrowed", "other", "unknown"])
def test_other_families_give_none(family: str) -> None:
    assert vllm_support.warnings(SERVES, {"model_type": family}) == []


def test_job_without_an_endpoint_gives_none() -> None:
    assert vllm_support.warnings(EstimateOptions(), {"model_type": "gone"}) == []


def test_only_families_that_vllm_implements_count_as_such() -> None:
    assert vllm_support.has_implementation("own")
    assert not any(map(vllm_support.has_implementation, ["borrowed", "other", "gone", "unknown"]))
