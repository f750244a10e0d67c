"""Score the reference in a fresh process, with the model classes of transformers.

On a GPU, Unsloth replaces model classes and functions of the libraries for the whole process. A
reference that is scored there would be that of Unsloth's model instead of the published one. The
process sends its scores through a pipe, and writes nothing to the volume. It ends with its parent.
"""

import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path

from finetune_api.contracts.reference import Reference
from finetune_api.safety import redaction
from finetune_trainer.runtime import environment
from finetune_trainer.volume_layout import Layout


class ScoringFailed(Exception):
    """The process could not score the reference; the message is that of its error."""


def libraries_are_replaced() -> bool:
    """Report whether Unsloth has replaced libraries in this process; on a CPU, it does not."""
    return getattr(sys.modules.get("unsloth"), "DEVICE_TYPE", "cpu") != "cpu"


def score(layout: Layout) -> Reference:
    """Return the reference of the published adapter, scored in a fresh process."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(layout.work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            answer = process.stdout.read()
        finally:
            # After the answer it has nothing to do; otherwise this process was stopped.
            process.kill()
    if not answer.startswith("{"):
        raise ScoringFailed(answer or f"the scoring process ended with code {process.returncode}")
    return Reference.model_validate_json(answer)


def main(work: Path) -> None:
    """Score the reference of a volume, and write it or the error to standard output."""
    answer = os.dup(1)
    # Libraries may print.
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    redaction.install()
    environment.configure()
    from finetune_trainer.evaluation import scoring

    try:
        text = scoring.score(Layout(work=work)).model_dump_json(by_alias=True)
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {redaction.one_line(error)}"
    with os.fdopen(answer, "w") as pipe:
        pipe.write(text)


def _end_with_parent() -> None:
    """End this process when its standard input is closed, which the parent holds open."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
