"""Run in a pod: print the messages of reference rows with the token ids of their prompts.

The ids come from the tokenized training data, not from a renderer. Result: [{messages, prompt}].
"""

import json
from pathlib import Path

reference = json.loads(Path("/work/reference/reference.json").read_text(encoding="utf-8"))
rows = [
    {"messages": row["messages"], "prompt": row["ids"][: row["spans"][0][0]]}
    for row in reference["rows"]
    if row["messages"] and len(row["spans"]) == 1
]
print("RESULT " + json.dumps(rows[:5]))
