"""The recorded output of ``ftj run``: the first job of the documentation, with a smaller model.

All other examples run whenever the page is generated. A training takes minutes, and its figures
depend on the machine, so ``python dev/clidocs --record`` records it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from cluster import paths
from hub.server import make_server
from release.files import first_job

COMMAND = "ftj run job.yaml --work velmora"
FILE = paths.DEV / "clidocs" / "ftj-run.txt"
MODEL = "demo/two-layers"
"""The first layers of that of the job, from the content of the local hub."""
TRAINING = {"epochs": 8, "advanced": {"backend": "trl"}}
"""The backend is that of the packages in ``constraints/trainer.txt``."""
OWN_LINE = re.compile(r"\d\d:\d\d:\d\d ")
"""Beginning of a line of our programs, not of a warning of a library."""
STEP = re.compile(r" step (\d+)/(\d+) ")
SHOWN_STEPS = 3
"""Number of steps at the beginning of the training, and at its end."""


def lines() -> list[str]:
    """Return the recorded lines of our programs, without most of the steps."""
    shown: list[str] = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        step = STEP.search(line)
        if step is None or not SHOWN_STEPS < int(step[1]) <= int(step[2]) - SHOWN_STEPS:
            shown.append(line.rstrip())
        elif shown[-1] != "...":
            shown.append("...")
    return shown


def record() -> None:
    """Run the command, and write its output. ``make run`` creates the content of the local hub."""
    with tempfile.TemporaryDirectory() as name, _hub(Path(name)) as url:
        rows, job = yaml.safe_load_all(first_job(paths.REPO))
        job["spec"]["model"] = {"source": f"hf://{MODEL}"}
        job["spec"]["training"] |= TRAINING
        manifest = yaml.safe_dump_all([rows, job])
        (Path(name) / "job.yaml").write_text(manifest, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "finetune_cli", *COMMAND.split()[1:]],
            cwd=name,
            env=os.environ
            | {"HF_ENDPOINT": url, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stdout)
    own = [f"{line}\n" for line in done.stdout.splitlines() if OWN_LINE.match(line)]
    FILE.write_text("".join(own), encoding="utf-8")


@contextmanager
def _hub(folder: Path) -> Iterator[str]:
    """Serve the model until the end of the block, and yield the URL."""
    model = folder / "hub" / "models" / MODEL
    model.parent.mkdir(parents=True)
    model.symlink_to(paths.HUB_CONTENT / "models" / MODEL)
    with make_server(folder / "hub", "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
