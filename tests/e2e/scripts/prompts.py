"""In a pod: messages of some reference rows, and the token ids that training put before the answer.

The ids are those that the loss was computed on, not those that a renderer makes of the messages.
Result: [{messages, prompt}].
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
