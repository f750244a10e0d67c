"""Run in a pod with write access to the volume: change a weight of a folder, and its manifest.

Argument: the folder. Afterwards, all digests in the manifest match the files, and so does the
digest of the folder. The result is the name of the changed file.
"""

import hashlib
import json
import sys
from pathlib import Path

folder = Path("/work") / sys.argv[1]
file = min(folder.glob("*.safetensors"))
manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
data = bytearray(file.read_bytes())
# Fixed bytes (1.0 in bfloat16): a second run changes nothing.
data[-2:] = b"\x80\x3f"
# The file may have several links, and is not writable in place.
file.unlink()
file.write_bytes(data)
for entry in manifest["files"]:
    entry["sha256"] = hashlib.sha256((folder / entry["name"]).read_bytes()).hexdigest()
content = [each for each in manifest["files"] if each["name"] != "README.md"]
lines = "".join(f"{each['sha256']}  {each['name']}\n" for each in content)
manifest["digest"] = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
(folder / "manifest.json").unlink()
(folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
print("RESULT " + json.dumps(file.name))
