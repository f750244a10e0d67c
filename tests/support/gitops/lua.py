"""Run the Lua scripts for Argo CD with glua, the interpreter of gopher-lua that Argo CD uses."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SCRIPTS = (
    Path(__file__).parents[3] / "gitops/argocd/resource_customizations/finetune.dev/FineTuneJob"
)
_PRELUDE = """
local function encoded(value)
  if type(value) ~= "table" then
    if type(value) == "string" then return string.format("%q", value):gsub("\\\\\\n", "\\\\n") end
    return tostring(value)
  end
  local parts = {}
  for key, each in pairs(value) do
    table.insert(parts, string.format("%q", tostring(key)) .. ":" .. encoded(each))
  end
  return "{" .. table.concat(parts, ",") .. "}"
end
"""


def run(script: str, *objects: Any) -> list[Any]:
    """Run a script in ``SCRIPTS`` once for each object, as ``obj``; return its results.

    Tables become dictionaries. Raises subprocess.CalledProcessError if the script fails, and
    RuntimeError without glua.
    """
    glua = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), "glua")
    if not glua.is_file():
        raise RuntimeError(
            "glua is not in KUBEBUILDER_ASSETS; run: "
            "export KUBEBUILDER_ASSETS=$(python3 dev/cluster assets)"
        )
    lines = [
        f"obj = {literal(each)}\nprint(encoded(dofile({literal(str(SCRIPTS / script))})))"
        for each in objects
    ]
    # In a file: the objects of a run can be longer than a command line.
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(_PRELUDE + "\n".join(lines))
        file.flush()
        done = subprocess.run([glua, file.name], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def literal(value: Any) -> str:
    """Return a JSON value as Lua. null becomes nil, so a null field is an absent field."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_character(each) for each in value.encode()) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"[{literal(k)}]={literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ",".join(map(literal, value)) + "}"
    return repr(value)


def _character(byte: int) -> str:
    plain = 32 <= byte < 127 and byte not in b'"\\'
    return chr(byte) if plain else f"\\{byte:03d}"
