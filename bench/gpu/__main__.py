"""``python bench/gpu [--minutes 9] [--results FILE]``: measure the trainer on a GPU.

For any machine with a CUDA GPU; needs no network. It creates random weights of the shape and caps
the GPU memory at that of an A10G. llama3-8b needs 32 GB of disk. Each measurement is written to the
file of results as soon as it is made, and a later run makes only those that are missing.

With --minutes, the run ends after that time, with exit status 75 if measurements are missing. The
same command then continues; --folder keeps the model for it. --dry-run runs the same code on a tiny
model without a GPU, to test it; figures of a GPU then say "not measured". --tables prints the
tables of files of results and measures nothing.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# The interpreter adds this folder to the path; imports need the folders above it. Only the archive
# of `make gpu-bundle` has packages.
OWN = [str(REPOSITORY / name) for name in ("", "crds", "trainer", "packages")]
sys.path[0:1] = OWN
NEEDED = ("torch", "transformers", "accelerate", "triton", "peft", "trl", "bitsandbytes")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
BUILT_FOR = REPOSITORY / "packages" / "python-version"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
if MISSING:
    sys.exit(f"{sys.executable} does not find the packages {', '.join(MISSING)}: install them")
if BUILT_FOR.exists() and BUILT_FOR.read_text().strip() != PYTHON:
    sys.exit(
        f"this bundle is for Python {BUILT_FOR.read_text().strip()}, and {sys.executable} is "
        f"Python {PYTHON}: build another one with `make gpu-bundle FOR={PYTHON}`"
    )

from bench import machine  # noqa: E402
from bench.gpu import exact, memory, pieces, settings, tables  # noqa: E402
from bench.gpu.results import OtherRun, Results  # noqa: E402
from bench.gpu.training import CARD_BYTES, Workplace  # noqa: E402
from bench.training import workload  # noqa: E402

BACKENDS = ("trl", "unsloth")
PARTS = {
    "memory": memory.measurements,
    "exact": exact.measurements,
    "settings": settings.measurements,
}
PREFIX = "libbitsandbytes_cuda"
VERSIONS = ("torch", "triton", "transformers", "peft", "trl", "bitsandbytes", "liger-kernel")


def main() -> int:
    """Make the missing measurements and print the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench/gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, help="end after this time (default: no limit)")
    parser.add_argument(
        "--results", type=Path, default=Path("gpu-results.json"), help="default: gpu-results.json"
    )
    parser.add_argument("--folder", type=Path, help="keep model and volumes in this folder")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model, without a GPU")
    parser.add_argument("--shape", choices=tuple(workload.SHAPES), help="default: llama3-8b")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=[backend for backend in BACKENDS if importlib.util.find_spec(backend)],
        help="default: the installed ones",
    )
    parser.add_argument("--tables", nargs="+", type=Path, metavar="FILE", help="print only")
    options = parser.parse_args()
    if options.tables:
        print("\n\n".join(tables.render(Results.load(path)) for path in options.tables))
        return 0
    if options.dry_run:
        # Do not use a GPU of this machine.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        parser.error("PyTorch finds no usable GPU; --dry-run tests the code without one")
    library = _library(torch.version.cuda)
    if not options.dry_run and not library.is_file():
        parser.error(
            f"bitsandbytes has no {library.name} for this PyTorch: write another bundle with "
            f"`make gpu-bundle FOR={PYTHON} CUDA={library.stem.removeprefix(PREFIX)}`"
        )
    shape = options.shape or ("tiny" if options.dry_run else "llama3-8b")
    cap = None if options.dry_run else CARD_BYTES
    try:
        results = Results.resume(options.results, _about(shape, cap))
    except (OtherRun, ValueError) as error:
        parser.error(str(error))
    # Training processes import the same packages.
    os.environ["PYTHONPATH"] = os.pathsep.join(OWN)
    with tempfile.TemporaryDirectory() as name:
        folder: Path = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        work = Workplace(folder=folder.resolve(), shape=shape, cap=cap)
        measurements = {
            name: measure
            for part in options.only
            for name, measure in PARTS[part](work, options.backends)
        }
        limit = options.minutes and 60 * options.minutes
        missing = pieces.run(measurements, results, options.results, seconds=limit)
    print(f"\n{tables.render(results)}\n")
    if missing:
        print(f"{len(missing)} of {len(measurements)} measurements are missing: repeat the command")
        return os.EX_TEMPFAIL
    print(f"all {len(measurements)} measurements are in {options.results}")
    return 0


def _library(cuda: str | None) -> Path:
    """Return the place of the library of bitsandbytes for a version of CUDA."""
    package = importlib.util.find_spec("bitsandbytes")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).with_name(f"{PREFIX}{(cuda or '').replace('.', '')}.so")


def _about(shape: str, cap: int | None) -> dict[str, object]:
    versions = {name: metadata.version(name) for name in VERSIONS}
    return {
        "machine": machine.description(),
        "shape": shape,
        "memoryCap": cap,
        "versions": versions,
    }


sys.exit(main())
