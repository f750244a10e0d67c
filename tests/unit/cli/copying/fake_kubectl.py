"""A ``kubectl`` for tests: objects from a file, and a volume that is a local folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_KUBECTL"])
VOLUME = STATE / "volume"


def main(words: list[str]) -> int:
    """Run one call, and record it."""
    with (STATE / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    words = [each for each in words if not each.startswith(("--namespace=", "--context="))]
    objects = json.loads((STATE / "objects.json").read_text())
    verb, rest = words[0], words[1:]
    if verb == "create":
        (STATE / "pod.json").write_text(sys.stdin.read())
        return 0
    if verb == "delete":
        return 0
    if verb == "get":
        return _get(objects, rest)
    if "cat" in rest and (STATE / "lost").exists():
        (STATE / "lost").unlink()
        return 0
    command = [each.replace("/work", str(VOLUME)) for each in rest[rest.index("--") + 1 :]]
    cuts = STATE / "cuts"
    if command[0] == "tar" and cuts.exists():
        cut, *others = cuts.read_text().split()
        cuts.write_text(" ".join(others)) if others else cuts.unlink()
        done = subprocess.run(command, capture_output=True, check=False)
        sys.stdout.buffer.write(done.stdout[: int(cut)])
        print("error: the connection was lost", file=sys.stderr)
        return 1
    return subprocess.run(command, check=False).returncode


def _get(objects: dict[str, object], rest: list[str]) -> int:
    name = "/".join(each for each in rest if not each.startswith("-"))
    if name.startswith("pod/"):
        name = "pod"
    if name not in objects:
        print(f"Error from server (NotFound): {name} not found", file=sys.stderr)
        return 1
    print(json.dumps(objects[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
