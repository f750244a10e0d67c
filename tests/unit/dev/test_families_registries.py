"""What the table of model families reads from the sources of vLLM and Unsloth."""

import re
from pathlib import Path

from families import page, unsloth, vllm
from finetune_trainer.attention import families
from finetune_trainer.compatibility import vllm_support
from finetune_trainer.compatibility.backend_choice import UNSLOTH_FAMILIES

REPOSITORY = Path(__file__).resolve().parents[3]
REGISTRY = """
_TEXT_GENERATION_MODELS = {"LlamaForCausalLM": ("llama", "LlamaForCausalLM")}
_MULTIMODAL_MODELS = {"Gemma3ForConditionalGeneration": ("gemma3", "Gemma3")}
_TRANSFORMERS_SUPPORTED_MODELS = {"OlmoForCausalLM": ("transformers", "TransformersForCausalLM")}
_ALL = {**_TEXT_GENERATION_MODELS}
_PREVIOUSLY_SUPPORTED_MODELS = {"BambaForCausalLM": "0.23.0"}
"""
LOADER = """
def load(model_type):
    if model_type == "llama":
        check()
        dispatch_model = Llama
    elif model_type == "gemma":
        dispatch_model = Gemma
    elif model_type == "cohere":
        pass
    elif other == "falcon":
        dispatch_model = Falcon
"""


def test_registry_of_vllm_is_read_without_importing_it() -> None:
    found = vllm.parse(REGISTRY)
    assert found.own == {"LlamaForCausalLM", "Gemma3ForConditionalGeneration"}
    assert found.transformers == {"OlmoForCausalLM"}
    assert found.removed == {"BambaForCausalLM": "0.23.0"}


def test_families_of_unsloth_are_those_with_a_class_of_their_own() -> None:
    assert list(unsloth.parse(LOADER)) == ["llama", "gemma"]


def test_unsloth_has_a_class_for_some_of_the_tested_families() -> None:
    assert {"llama", "mistral", "qwen2"} <= unsloth.fast() & UNSLOTH_FAMILIES


def test_table_is_of_the_vllm_that_the_chart_and_the_cluster_serve_with() -> None:
    assert vllm_support.table().vllm == vllm.version()
    values = (REPOSITORY / "charts/finetune-operator/values.yaml").read_text()
    assert re.search(rf"tag: v{re.escape(vllm.version())}$", values, re.MULTILINE)


def test_table_of_vllm_has_all_families() -> None:
    assert vllm_support.table().families.keys() == families.table().families.keys()


def test_page_names_the_reason_why_vllm_does_not_serve_a_family() -> None:
    family, reason = next(
        (family, reason)
        for family, reason in vllm_support.table().families.items()
        if reason not in vllm_support.LOADED
    )
    (row,) = re.findall(rf"^\| `{family}` .*$", page.PAGE.read_text(), re.MULTILINE)
    assert "| no |" in row
    assert row.rstrip(" |").endswith(f"vLLM: {reason}")
