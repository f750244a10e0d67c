"""``python3 dev/workflows``: check the workflows; the exit status is that of actionlint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The interpreter puts this folder itself on the path; its parent makes `workflows` a package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from workflows import actionlint  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]

sys.exit(subprocess.run([actionlint.ensure(), *sys.argv[1:]], cwd=ROOT, check=False).returncode)
