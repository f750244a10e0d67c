"""``python bench/gpu [--shape llama3-8b] [--device cuda|cpu]``: the trainer on a card, measured.

For any CUDA machine; needs no network. Random weights of the shape are made on the spot, and the
card's memory is capped at an A10G's. llama3-8b takes 32 GB of disk; with ``--folder`` the model is
kept for the next call, and ``--only`` names what to measure. ``--shape tiny --device cpu`` runs the
same code without a card, so that it is known to run; what only a card can tell is "not measured".
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# The interpreter puts this folder itself on the path; packages are found from these.
sys.path[0:1] = [str(REPOSITORY / name) for name in ("", "crds", "trainer")]
# The processes that train find the same packages.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])

from bench import machine  # noqa: E402
from bench.gpu import exact, memory, settings  # noqa: E402
from bench.training import workload  # noqa: E402

A10G_BYTES = int(22.49 * 2**30)
ROWS = 4000
BACKENDS = ("trl", "unsloth")
PARTS = ("memory", "resume", "nf4", "settings")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/gpu", description=__doc__)
    parser.add_argument("--shape", choices=tuple(workload.SHAPES), default="llama3-8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=[each for each in BACKENDS if importlib.util.find_spec(each)],
        help="those that are installed",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="where the model is made, and kept")
    options = parser.parse_args()
    import torch

    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("CUDA finds no card here: name --device cpu for a dry run")
    if not cuda:
        # So that a card that is there is not used.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as name:
        folder: Path = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model" / "config.json").is_file():
            print(f"==> make a random model of the shape {options.shape}", flush=True)
            workload.write_model(folder / "model", options.shape)
        workload.write_rows(folder / "rows", ROWS)
        cap = A10G_BYTES if cuda else None
        measures = {
            "memory": lambda: memory.measure(folder, options.backends, cap=cap),
            "resume": lambda: exact.resume(folder, options.backends, cap=cap),
            "nf4": lambda: exact.nf4(folder / "model", cuda=cuda),
            "settings": lambda: settings.measure(folder / "settings", options.backends, cap=cap),
        }
        title = f"{machine.words()}; shape {options.shape}, random weights; " + (
            "memory capped at 22.49 GiB" if cuda else "a dry run without a card"
        )
        tables = [measures[part]() for part in options.only]
    print("\n\n".join(["", title, *tables]))


main()
