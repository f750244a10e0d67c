"""Whether vLLM loads the model that a job trains: a table from the registry of the pinned version.

``make conformance`` writes the table (``vllm.json``). It states what vLLM lists, not that a model
was served.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.estimate.budget import EstimateOptions

FILE = Path(__file__).with_name("vllm.json")
OWN, TRANSFORMERS, FALLBACK = "yes", "transformers", "fallback"
"""vLLM has an implementation; it lists the family and runs the code of transformers; it does not
list the family, and tries the code of transformers."""
LOADED = frozenset({OWN, TRANSFORMERS, FALLBACK})


@dataclass(frozen=True, kw_only=True)
class Table:
    """Whether a version of vLLM loads a family, by ``model_type``: a word, or why it does not."""

    vllm: str
    families: Mapping[str, str]


@functools.cache
def table() -> Table:
    """Return the table of this image."""
    return Table(**json.loads(FILE.read_text(encoding="utf-8")))


def has_implementation(family: str) -> bool:
    """Report whether vLLM has an implementation of a family."""
    return table().families.get(family) == OWN


def warnings(options: EstimateOptions, config: Mapping[str, Any]) -> list[str]:
    """Return a warning about a model that vLLM does not load, for the status.

    config: config.json of the model that a job trains. The chart may set another version of vLLM,
    so the job is not refused.
    """
    family, support = str(config.get("model_type")), table()
    reason = support.families.get(family)
    if options.serving is None or reason is None or reason in LOADED:
        return []
    return [
        f"vLLM {support.vllm} does not serve model family {family} ({reason}): set serving.enabled "
        "to false, unless the chart value serving.image is another version, which serves it"
    ]
