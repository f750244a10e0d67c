"""The endpoint's claim: a base, and adapters with references for ``tests.fakes.vllm_server``."""

import hashlib
import json
import math
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes import vllm_server

from finetune_api.contracts.endpoint import WantedName

LAYERS, HIDDEN, RANK = 2, 8, 4
MODULES = ("q_proj", "v_proj")
COMMIT = "c" * 40
QUANTIZED = {"model.layers.0.self_attn.q_proj": "d1"}
ROWS, PROMPT, ANSWER = 8, 24, 24
TEMPLATE = "template of the job"

Tensors = dict[str, tuple[int, ...]]
Change = Callable[[Path], None]


def modules() -> list[str]:
    return [f"model.layers.{n}.self_attn.{name}" for n in range(LAYERS) for name in MODULES]


def lora_tensors() -> Tensors:
    """Return the names and shapes of a complete adapter."""
    found: Tensors = {}
    for module in modules():
        found[f"base_model.model.{module}.lora_A.weight"] = (RANK, HIDDEN)
        found[f"base_model.model.{module}.lora_B.weight"] = (HIDDEN, RANK)
    return found


CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 8,
    "bias": "none",
    "target_modules": list(MODULES),
}


def safetensors(tensors: Tensors, seed: int) -> bytes:
    """Return a file with random values in float32."""
    entries, at = {}, 0
    for name, shape in tensors.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(at)


def digest(content: bytes) -> str:
    """Return the SHA-256 (hex) of some bytes."""
    return hashlib.sha256(content).hexdigest()


def publish(
    folder: Path, kind: str, facts: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[str, str]:
    """Write a folder with its manifest; return SHA-256 of the manifest, and the content digest."""
    folder.mkdir(parents=True)
    entries = []
    for name, content in sorted(files.items()):
        (folder / name).write_bytes(content)
        entries.append({"name": name, "size": len(content), "sha256": digest(content)})
    lines = "".join(f"{each['sha256']}  {each['name']}\n" for each in entries)
    whole = "sha256:" + digest(lines.encode())
    document = {"kind": kind, "key": "r", "digest": whole, "files": entries, "facts": dict(facts)}
    content = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(content)
    return digest(content), whole


def base(folder: Path, *, head: bool = True) -> str:
    """Write a base; return the SHA-256 of its manifest."""
    tensors: Tensors = {f"{module}.weight": (HIDDEN, HIDDEN) for module in modules()}
    if head:
        tensors["lm_head.weight"] = (16, HIDDEN)
    facts = {
        "source": "hf://acme/base",
        "baseCommit": COMMIT,
        "quantizedModules": QUANTIZED,
        "dtype": "bfloat16",
    }
    return publish(folder, "base", facts, {"model.safetensors": safetensors(tensors, 0)})[0]


def reference(seed: str, *, template: str, scale: float = 1.0) -> dict[str, Any]:
    """Return the reference of an adapter. scale: 0 for a model that learned nothing."""
    randomly = random.Random(5)
    rows = []
    for number in range(ROWS):
        messages = [{"role": "user", "content": f"question {number} of {seed}"}]
        prompt = vllm_server.render(template, messages)
        ids = prompt + [randomly.randrange(256) for _ in range(ANSWER)]
        part = slice(len(prompt) - 1, None)
        tuned = vllm_server.scores(ids, seed, scale)[part]
        values = {
            "tuned": tuned,
            "base": vllm_server.scores(ids, "")[part],
            # Rounding errors of logits change a log-probability in proportion to 1 - p.
            "rounded": [v - 0.02 * randomly.uniform(-1, 1) * math.expm1(v) for v in tuned],
        }
        rows.append(
            {
                "ids": ids,
                "spans": [(len(prompt), len(ids))],
                "messages": messages,
                "promptIds": prompt,
                "dequantized": values,
                "original": values,
            }
        )
    return {"rows": rows, "heldOut": True}


@dataclass
class Claim:
    """A claim with a base."""

    root: Path
    base_manifest: str

    @classmethod
    def create(cls, root: Path) -> "Claim":
        root.mkdir()
        return cls(root=root, base_manifest=base(root / "base"))

    def add(
        self,
        name: str,
        *,
        number: int = 1,
        template: str | None = TEMPLATE,
        tensors: Tensors | None = None,
        config: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        with_reference: bool = True,
    ) -> WantedName:
        """Publish revision ``number`` of a job's adapter; return its entry of a wanted set."""
        path = f"{name}/{number}"
        weights = safetensors(
            lora_tensors() if tensors is None else tensors,
            int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "little"),
        )
        files = {
            "adapter_model.safetensors": weights,
            "adapter_config.json": json.dumps(CONFIG if config is None else config).encode(),
            "README.md": b"words",
        }
        if template is not None:
            files["chat_template.jinja"] = template.encode()
        facts = {"baseCommit": COMMIT, "quantizedModules": QUANTIZED, **(facts or {})}
        adapter, whole = publish(self.root / path / "adapter", "adapter", facts, files)
        found = None
        if with_reference:
            document = reference(
                vllm_server.seed_of(weights),
                template="default" if template is None else template,
                scale=scale,
            )
            found, _ = publish(
                self.root / path / "reference",
                "reference",
                {"adapter": whole},
                {"reference.json": json.dumps(document).encode()},
            )
        return WantedName(
            name=name,
            job=f"job-{name}",
            revision=digest(path.encode()),
            adapter=adapter,
            reference=found,
            path=path,
            template=None if template is None else digest(template.encode()),
        )

    def seed(self, wanted: WantedName) -> str:
        """Return the seed of an adapter: its answers contain it."""
        weights = self.root / wanted.path / "adapter" / "adapter_model.safetensors"
        return vllm_server.seed_of(weights.read_bytes())


def keyed(wanted: WantedName, *keys: str) -> WantedName:
    """Return an entry that only these API keys may use."""
    digests = tuple(digest(key.encode()) for key in keys)
    return wanted.model_copy(update={"keys": digests})
