"""Training data for benchmarks: a random model of a known shape, and standard-library docstrings.

Both are generated locally, so no network is needed. Docstrings are real text with a realistic
length distribution (many short rows, a long tail). Speed and memory depend on shapes and lengths
only, not on the weights. The trainer's own ``prepare`` reads the rows.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.contracts.stage_request import PrepareStageRequest
from finetune_api.defaulting import builtin_defaults, resolve

VOCABULARY = 8192
"""Vocabulary of the rows' tokenizer; a shape may have a larger one, whose other tokens do not
occur."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "llama3-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
TIED = ("smollm2-135m",)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared volume ``work``, and its job.json."""

    work: Path
    config: Path

    def remove(self) -> None:
        """Delete the volume: a base of 8 billion weights takes 16 GB."""
        shutil.rmtree(self.work)

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the dataset's manifest: steps, tokens, whether rows are packed."""
        document = json.loads((self.work / "dataset" / "manifest.json").read_text())
        return dict(document["facts"])

    @property
    def estimated(self) -> int | None:
        """Estimated GPU memory in bytes."""
        estimate = self.facts.get("estimate")
        return int(estimate["trainingBytes"]) if estimate else None


def write_model(folder: Path, shape: str) -> None:
    """Write random bfloat16 weights with a tokenizer trained on the rows."""
    random_llama(
        **SHAPES[shape],
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=shape in TIED,
        eos_token_id=0,
        dtype="bfloat16",
    ).save_pretrained(folder)
    _tokenizer([row["output"] for row in docstrings()]).save_pretrained(folder)


def random_llama(**config: Any) -> Any:
    """Return a Llama with random bfloat16 weights. config: arguments of LlamaConfig."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return LlamaForCausalLM(LlamaConfig(**config))
    finally:
        torch.set_default_dtype(before)


def write_rows(folder: Path, count: int) -> None:
    """Write ``count`` docstrings, evenly spread, as instruction rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(docstrings())
    target = rows[:: max(1, len(rows) // count)][:count]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in target))


def docstrings() -> Iterator[dict[str, str]]:
    """Yield an instruction row for each documented function or class of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                text := ast.get_docstring(node)
            ):
                yield {
                    "instruction": f"What is {module}.{node.name}, line {node.lineno}?",
                    "input": "",
                    "output": text,
                }


def prepare(
    folder: Path, name: str, *, training: dict[str, Any], card: str | None = None
) -> Prepared:
    """Prepare a job on ``folder/model`` and ``folder/rows``. training: ``spec.training``."""
    spec = {
        "model": {"source": "pvc://bench/model"},
        "dataset": {"source": "pvc://bench/rows", "format": "alpaca", "validationFraction": 0},
        "training": training,
        "serving": {"enabled": False},
    }
    resolved = resolve(spec, builtin_defaults())
    document = resolved.spec.model_dump(mode="json", by_alias=True)
    prepared = Prepared(work=folder / name, config=folder / f"{name}.json")
    prepared.config.write_text(
        json.dumps(
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "namespace": "bench",
                "name": name,
                "revision": resolved.revision,
                "digest": resolved.digest,
                **{part: document[part] for part in ("model", "dataset", "training")},
            }
        )
    )
    prepared.work.mkdir(exist_ok=True)
    sources = folder / "sources"
    sources.mkdir(exist_ok=True)
    if not (sources / "bench").exists():
        (sources / "bench").symlink_to(folder)
    request = PrepareStageRequest(
        config=str(prepared.config),
        work=str(prepared.work),
        merges=False,
        cards=(card,) if card else (),
    )
    ended = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", request.to_argument()],
        env=os.environ | {"FINETUNE_SOURCES_DIR": str(sources), "FINETUNE_METRICS_PORT": "off"},
        check=False,
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise RuntimeError(f"{name} could not be prepared:\n{ended.stderr}{ended.stdout}")
    return prepared


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_end|>", "<|im_start|>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], pad_token=special[0]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
