"""Run in a pod of the trainer image: compare the answers of base, adapter and merged model.

The script uses plain transformers and PEFT, and imports no code of this project.

given.json: base, adapter, merged (folders), questions, max_tokens.

Result: the answers of each model by name; loading (messages of transformers about the merged
weights); tokenizer (for each file, whether it is equal byte for byte); config (differing fields, as
[base, merged]); dtype (of the merged model).
"""

import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "chat_template*",
)  # fmt: skip


def main() -> None:
    """Load the models one after another and generate the answers of each."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    base, merged = Path(given["base"]), Path(given["merged"])
    questions, limit = given["questions"], given["max_tokens"]

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    result: dict[str, Any] = {"base": _answers(model, base, questions, limit)}
    model = PeftModel.from_pretrained(model, given["adapter"])
    result["adapter"] = _answers(model, base, questions, limit)
    del model
    model, loading = AutoModelForCausalLM.from_pretrained(
        merged, dtype=torch.float32, output_loading_info=True
    )
    result["merged"] = _answers(model, merged, questions, limit)
    result["loading"] = {key: sorted(map(str, value)) for key, value in loading.items() if value}
    result["tokenizer"] = {
        file.name: (merged / file.name).is_file()
        and (merged / file.name).read_bytes() == file.read_bytes()
        for file in sorted(base.iterdir())
        if any(fnmatch(file.name, pattern) for pattern in TOKENIZER_FILES)
    }
    configs = [json.loads((folder / "config.json").read_text()) for folder in (base, merged)]
    result["config"] = {
        key: [config.get(key) for config in configs]
        for key in sorted({*configs[0], *configs[1]})
        if configs[0].get(key) != configs[1].get(key)
    }
    result["dtype"] = configs[1].get("dtype") or configs[1].get("torch_dtype")
    print("RESULT " + json.dumps(result))


def _answers(model: Any, folder: Path, questions: list[str], limit: int) -> list[str]:
    """Return the greedy answers. One batch for all questions takes a third of the time."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        ids = model.generate(**prompts, max_new_tokens=limit, do_sample=False)
    new = ids[:, prompts["input_ids"].shape[1] :]
    return [str(answer) for answer in tokenizer.batch_decode(new, skip_special_tokens=True)]


main()
