"""Plain transformers and PEFT load what was published, without anything of this project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.registry import Registry
from tests.support.trainer import publishing, tiny
from tests.support.trainer.publishing import Volume, run
from tests.support.trainer.web import Certificate
from tests.trainer.publishing.test_oci import oci, unpack

TEXT = "Capital of France?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """A volume with a model, an adapter that changes its answers, and both merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("trained")
    base, adapter, merged = (folder / name for name in ("base", "adapter", "merged"))
    tiny.model(base, dtype="float32")
    torch.manual_seed(2)
    loaded = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = get_peft_model(loaded, config)
    model.save_pretrained(adapter)
    model.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return publishing.of_models(folder, base=base, adapter=adapter, merged=merged)


@pytest.fixture
def pulled(
    trained: Volume, server: Registry, certificate: Certificate, tmp_path: Path
) -> Callable[[str], Path]:
    """Publish to a registry, and return the folder in the image."""

    def pull(what: str) -> Path:
        done = run(trained, oci(trained, server, certificate, what))
        assert done.error is None, done.failure
        return unpack(server, f"tiny-1-{what}", tmp_path / what)

    return pull


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model.eval()(**tokenizer(TEXT, return_tensors="pt")).logits


def test_published_models_answer_like_the_tuned_model(
    trained: Volume, pulled: Callable[[str], Path]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged, adapter = pulled("merged"), pulled("adapter")
    base = AutoModelForCausalLM.from_pretrained(trained.layout.base)
    tokenizer = AutoTokenizer.from_pretrained(trained.layout.base)
    untuned = logits(base, tokenizer)
    for folder in (merged, adapter):
        found = AutoTokenizer.from_pretrained(folder)
        assert found(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
        assert found.chat_template == tokenizer.chat_template
    tuned = logits(AutoModelForCausalLM.from_pretrained(merged), tokenizer)
    assert not torch.allclose(tuned, untuned, atol=0.01)
    with_adapter = logits(PeftModel.from_pretrained(base, adapter), tokenizer)
    torch.testing.assert_close(with_adapter, tuned, atol=1e-4, rtol=1e-4)
