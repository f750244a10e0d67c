"""Runs Argo CD's Lua scripts under glua, the interpreter of gopher-lua, as Argo CD does."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

SCRIPTS = (
    Path(__file__).parents[2] / "gitops/argocd/resource_customizations/finetune.dev/FineTuneJob"
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
    """Run a script of ``SCRIPTS`` once for each object, as ``obj``; return what it returned.

    Tables come back as dictionaries. Raises subprocess.CalledProcessError where the script fails,
    RuntimeError where there is no glua.
    """
    glua = Path(os.environ.get("KUBEBUILDER_ASSETS", ""), "glua")
    if not glua.is_file():
        raise RuntimeError(
            "KUBEBUILDER_ASSETS holds no glua; say: "
            "export KUBEBUILDER_ASSETS=$(python3 dev/cluster assets)"
        )
    lines = [
        f"obj = {literal(each)}\nprint(encoded(dofile({literal(str(SCRIPTS / script))})))"
        for each in objects
    ]
    done = subprocess.run(
        [glua, "-e", _PRELUDE + "\n".join(lines)], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def literal(value: Any) -> str:
    """Return what JSON can say as Lua; null is nil, so a field that is null is one that is not."""
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
