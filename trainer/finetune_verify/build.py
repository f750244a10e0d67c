"""The served build: its folders, its base, and the number formats that it passes through."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api.contracts.reference import FOLDER, KIND, BaseKind
from finetune_api.safety import untrusted_file, untrusted_json
from finetune_verify import volume
from finetune_verify.comparing.comparison import APART, MERGED, UNIT_ROUNDOFF
from finetune_verify.errors import Mismatch

Mode = Literal["merged", "adapter"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """The build that must be served.

    dtypes: of its weights and of the server's arithmetic. paths: ``MERGED`` or ``APART`` of
    ``comparison``.
    """

    folders: tuple[volume.Folder, ...]
    base: BaseKind
    dtypes: tuple[str, ...]
    paths: int


@dataclass(frozen=True, kw_only=True)
class RecordedDigests:
    """SHA-256 (hex) of the manifests of a build, as the operator recorded them.

    served: of the merged model, or of the base model if the adapter is served. reference: None if
    the training recorded no reference.
    """

    served: str
    adapter: str
    reference: str | None


def find(
    work: Path, ledger: RecordedDigests, *, revision: str, build: str, mode: Mode, dtype: str
) -> Build:
    """Read the manifests of a build and check that they belong together.

    dtype: the server's number format; ``auto``: that of the weights. Raise Mismatch otherwise.
    """
    adapter = volume.read(work / "adapter", "adapter", sha256=ledger.adapter)
    if mode == "merged":
        served = volume.read(work / f"merged-{build}", "merged", sha256=ledger.served)
        base: BaseKind = served.facts["base"]
        if served.facts["adapter"] != adapter.digest:
            raise Mismatch(f"merged-{build}/ was not merged from the adapter in adapter/")
        folders = [served]
    else:
        served = volume.read(work / "base", "base", sha256=ledger.served)
        base = "original"
        folders = [served, adapter]
    for folder in (served, adapter):
        if folder.key.split(" ")[0] != revision:
            raise Mismatch(
                f"{folder.path.name}/ belongs to revision {folder.key.split(' ')[0]}, not "
                f"{revision}"
            )
    if ledger.reference is not None:
        reference = volume.read(work / FOLDER, KIND, sha256=ledger.reference)
        if reference.facts["adapter"] != adapter.digest:
            raise Mismatch(f"{FOLDER}/ was not recorded with the adapter in adapter/")
        folders.append(reference)
    weights = served.facts.get("dtype") or _dtype_of(served.path / "config.json")
    computed = dtype
    if dtype == "auto":
        # vLLM's auto uses the type of the weights, except that float32 becomes a 16-bit type.
        computed = "bfloat16" if weights == "float32" else weights
    for format_ in (weights, computed):
        if format_ not in UNIT_ROUNDOFF:
            raise Mismatch(
                f"the verification does not support the number format {format_!r}. It supports "
                f"{', '.join(sorted(UNIT_ROUNDOFF))}"
            )
    return Build(
        folders=tuple(folders),
        base=base,
        dtypes=(weights, computed),
        paths=MERGED if mode == "merged" else APART,
    )


def _dtype_of(config: Path) -> str:
    try:
        document = untrusted_json.parse(untrusted_file.read_text(config))
        return str(document.get("dtype") or document.get("torch_dtype") or "float32")
    except (OSError, ValueError, AttributeError) as error:
        raise Mismatch(f"{config.name} of the base model cannot be read: {error!r}") from error
