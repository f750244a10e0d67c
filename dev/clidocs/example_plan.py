"""The files of the example of ``ftj plan``: an edit of a job, and a stored state."""

from __future__ import annotations

import json

BEFORE = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: velmora, namespace: team-a}
spec:
  profile: small
  model: {source: hf://org/base-1b}
  dataset: {source: hf://org/velmora-rows}
"""
PROFILE = """\
---
apiVersion: finetune.dev/v1alpha1
kind: FineTuneProfile
metadata: {name: small}
spec:
  card: NVIDIA-A10G
  price: {perGpuHour: "1.20", currency: EUR}
"""
SETTINGS = """\
---
apiVersion: v1
kind: ConfigMap
metadata: {name: finetune-operator-settings}
data:
  settings.yaml: |
    version: 0.1.0
"""
MODEL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
FILES = {
    "velmora.yaml": BEFORE + "  training: {epochs: 5}\n  serving: {maxModelLen: 2048}\n",
    "state.yaml": BEFORE + PROFILE + SETTINGS,
    "profiles.yaml": PROFILE,
    "config.json": json.dumps(MODEL),
}
DATA = "--model config.json --rows 1200 --tokens 300000"
ESTIMATE = f"ftj estimate velmora.yaml --profile profiles.yaml {DATA}"
COMMAND = f"ftj plan velmora.yaml --state state.yaml {DATA}"
