"""``python bench/gpu [--shape llama3-8b] [--device cuda|cpu]``: measure the trainer on a GPU.

For any CUDA machine; needs no network. It creates random weights of the shape and caps the GPU
memory at that of an A10G. llama3-8b needs 32 GB of disk. ``--folder`` keeps the model for the next
run; ``--only`` selects measurements. ``--shape tiny --device cpu`` runs the same code without a
GPU, to test it; measurements that need a GPU then say "not measured".
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# The interpreter adds this folder to the path; imports need the folders above it.
sys.path[0:1] = [str(REPOSITORY / name) for name in ("", "crds", "trainer")]
# Training processes import the same packages.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])

from bench import machine  # noqa: E402
from bench.gpu import exact, memory, settings  # noqa: E402
from bench.training import workload  # noqa: E402

A10G_BYTES = int(22.49 * 2**30)
ROWS, DRY_ROWS = 4000, 400
"""Rows of the dataset, and of one for a run without a GPU, which trains on a part of them."""
BACKENDS = ("trl", "unsloth")
PARTS = ("memory", "resume", "nf4", "settings")


def main() -> None:
    """Run the benchmarks and print the tables."""
    parser = argparse.ArgumentParser(prog="bench/gpu", description=__doc__)
    parser.add_argument("--shape", choices=tuple(workload.SHAPES), default="llama3-8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=[each for each in BACKENDS if importlib.util.find_spec(each)],
        help="default: the installed ones",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="keep the model in this folder")
    options = parser.parse_args()
    import torch

    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("CUDA found no GPU: use --device cpu for a dry run")
    if not cuda:
        # Do not use a GPU of this machine.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as name:
        folder: Path = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model" / "config.json").is_file():
            print(f"==> create a random model of the shape {options.shape}", flush=True)
            workload.write_model(folder / "model", options.shape)
        workload.write_rows(folder / "rows", ROWS if cuda else DRY_ROWS)
        cap = A10G_BYTES if cuda else None
        measures = {
            "memory": lambda: memory.measure(folder, options.backends, cap=cap),
            "resume": lambda: exact.resume(folder, options.backends, cap=cap),
            "nf4": lambda: exact.nf4(folder / "model", cuda=cuda),
            "settings": lambda: settings.measure(folder / "settings", options.backends, cap=cap),
        }
        title = f"{machine.description()}; shape {options.shape}, random weights; " + (
            "memory capped at 22.49 GiB" if cuda else "a dry run without a GPU"
        )
        tables = [measures[part]() for part in options.only]
    print("\n\n".join(["", title, *tables]))


main()
