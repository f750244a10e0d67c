"""Which build is served: its folders, its base, and the number formats that it goes through."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api.contracts.reference import FOLDER, KIND, BaseKind
from finetune_verify import mounted
from finetune_verify.errors import Mismatch
from finetune_verify.judgement import APART, MERGED, UNIT_ROUNDOFF

Mode = Literal["merged", "adapter"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """What must be served. ``dtypes`` are those of its weights and of the server's arithmetic.

    ``paths`` is how often the server may round, as ``judgement`` has it.
    """

    folders: tuple[mounted.Folder, ...]
    base: BaseKind
    dtypes: tuple[str, ...]
    paths: int


def find(work: Path, *, revision: str, build: str, mode: Mode, dtype: str) -> Build:
    """Read the manifests of a build and check that they belong together.

    dtype: the server's number format, ``auto`` for that of the weights. Raises Mismatch.
    """
    adapter = mounted.read(work / "adapter", "adapter")
    if mode == "merged":
        served = mounted.read(work / f"merged-{build}", "merged")
        base: BaseKind = served.facts["base"]
        if served.facts["adapter"] != adapter.digest:
            raise Mismatch(f"merged-{build}/ was made of another adapter than adapter/ holds")
        folders = [served]
    else:
        served = mounted.read(work / "base", "base")
        base = "original"
        folders = [served, adapter]
    for folder in (served, adapter):
        if folder.key.split(" ")[0] != revision:
            raise Mismatch(
                f"{folder.path.name}/ belongs to revision {folder.key.split(' ')[0]}, not to "
                f"{revision}"
            )
    if (work / FOLDER / mounted.MANIFEST).is_file():
        reference = mounted.read(work / FOLDER, KIND)
        if reference.facts["adapter"] != adapter.digest:
            raise Mismatch(f"{FOLDER}/ was made of another adapter than adapter/ holds")
        folders.append(reference)
    weights = served.facts.get("dtype") or _dtype_of(served.path / "config.json")
    computed = dtype
    if dtype == "auto":
        # vLLM's own auto follows the weights, but does not compute in float32 for anyone.
        computed = "bfloat16" if weights == "float32" else weights
    for each in (weights, computed):
        if each not in UNIT_ROUNDOFF:
            raise Mismatch(
                f"the number format {each!r} is none of {', '.join(sorted(UNIT_ROUNDOFF))}"
            )
    return Build(
        folders=tuple(folders),
        base=base,
        dtypes=(weights, computed),
        paths=MERGED if mode == "merged" else APART,
    )


def _dtype_of(config: Path) -> str:
    try:
        document = json.loads(config.read_text())
        return str(document.get("dtype") or document.get("torch_dtype") or "float32")
    except (OSError, ValueError, AttributeError) as error:
        raise Mismatch(f"{config.name} of the base cannot be read: {error!r}") from error
