"""An adapter arrives: its files are copied from the endpoint's claim, and nothing else is loaded.

Other pods can write the claim, and change a file between its digest and its use. So each file is
copied and hashed in one pass, and only the copy is used: vLLM mounts the folder of the copies
read-only. vLLM reads an adapter again when it was evicted, so a copy stays until the
engine restarts; each start of the engine has a folder of its own.

vLLM accepts adapters that it then applies wrongly or not at all: a tensor under another prefix, a
missing layer (vllm-project/vllm#34186, #55193). Names and shapes are therefore compared with the
base first.
"""

import hashlib
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.contracts import reference
from finetune_api.contracts.endpoint import BASE_SCALES, LONGEST_TEMPLATE, WantedName
from finetune_api.safety import tensor_header, untrusted_file, untrusted_json
from finetune_api.safety.untrusted_file import NotAFile
from finetune_gate.adapters import base_equality
from finetune_gate.errors import NotCopied, Rejected
from finetune_verify import volume
from finetune_verify.comparing.comparison import UNIT_ROUNDOFF
from finetune_verify.errors import Mismatch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TEMPLATE = "chat_template.jinja"
PREFIX = "base_model.model."
PARTS = (".lora_A.weight", ".lora_B.weight")
UNSUPPORTED = (
    "use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out", "layer_replication",
    "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "exclude_modules",
    "layers_to_transform", "layers_pattern",
)  # fmt: skip
"""Settings of PEFT that vLLM ignores or rejects, or with which layers would be missing."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Base:
    """The base of the endpoint. Facts are those of its manifest.

    dtype: number format of the stored weights. modules: names, without their path, of the modules
    that the engine can adapt.
    """

    kind: reference.BaseKind
    dtype: str
    shapes: Shapes
    facts: Mapping[str, Any]
    modules: frozenset[str]
    max_rank: int
    scales: Path | None = None
    """File with the scales of a dequantized base."""


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A copied adapter, its reference, and the chat template of its job."""

    folder: Path
    reference: reference.Reference | None
    template: str | None
    different_blocks: int | None = None
    """Blocks of the base that had another scale in training; None if the base has no scales."""


def base(
    folder: Path, *, sha256: str, kind: reference.BaseKind, modules: Collection[str], max_rank: int
) -> Base:
    """Read the names and shapes of the base's tensors. Raise Mismatch.

    Scores prove the weights themselves: of every adapter, and of the base next to them.
    """
    published = volume.read(folder, "base", sha256=sha256)
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for entry in published.files:
            if entry["name"].endswith(".safetensors"):
                shapes |= _shapes(folder / entry["name"])
    except (OSError, ValueError) as error:
        raise Mismatch(f"the base in {folder.name}/ cannot be read: {error}") from error
    dtype = str(published.facts["dtype"])
    if dtype not in UNIT_ROUNDOFF:
        raise Mismatch(
            f"the base in {folder.name}/ has the number format {dtype!r}. The verification "
            f"supports {', '.join(sorted(UNIT_ROUNDOFF))}"
        )
    return Base(
        kind=kind,
        dtype=dtype,
        shapes=shapes,
        facts=published.facts,
        modules=frozenset(modules),
        max_rank=max_rank,
        scales=next(
            (folder / entry["name"] for entry in published.files if entry["name"] == BASE_SCALES),
            None,
        ),
    )


def copy(claim: Path, wanted: WantedName, target: Path, base: Base) -> Arrived:
    """Copy a wanted adapter to ``target``. Blocks. Raise Rejected, with nothing left behind.

    Raise NotCopied if another attempt may succeed.
    """
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        arrived = _copy(claim / wanted.path, wanted, partial, base)
        partial.rename(target)
    except (Mismatch, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = NotCopied if _may_pass(error) else Rejected
        raise kind(f"{wanted.path} cannot be used: {_text(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(arrived, folder=target)


def _copy(source: Path, wanted: WantedName, partial: Path, base: Base) -> Arrived:
    published = volume.read(source / "adapter", "adapter", sha256=wanted.adapter)
    base_equality.require(published.facts, base.facts, base.kind)
    entries = {entry["name"]: entry for entry in published.files}
    # Libraries load some files by their name alone, so only what vLLM needs is copied.
    for name in (CONFIG, WEIGHTS, TEMPLATE):
        if name in entries:
            _copy_file(published.path / name, entries[name], partial / name)
    require_fits(
        untrusted_json.parse((partial / CONFIG).read_bytes()), _shapes(partial / WEIGHTS), base
    )
    template = _template(partial / TEMPLATE, wanted)
    copied = None
    if wanted.reference is not None:
        copied = _reference(source, wanted.reference, published.digest, partial)
    blocks = _different_blocks(published, partial, base)
    return Arrived(folder=partial, reference=copied, template=template, different_blocks=blocks)


def _may_pass(error: Exception) -> bool:
    """Report whether the file system failed, and not the content of a folder."""
    cause = error.__cause__ if isinstance(error, Mismatch) else error
    return isinstance(cause, OSError) and not isinstance(cause, NotAFile | FileNotFoundError)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, Mismatch | OSError | ValueError) else repr(error)


def _copy_file(source: Path, entry: Mapping[str, Any], target: Path) -> None:
    """Copy a file and compare its digest, in one pass."""
    digest, size = hashlib.sha256(), 0
    with untrusted_file.open_regular(source, follow_links=False) as file, target.open("wb") as out:
        while chunk := file.read(volume.READ_BYTES):
            size += len(chunk)
            if size > entry["size"]:
                break
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != entry["sha256"] or size != entry["size"]:
        raise Mismatch(f"{entry['name']} has changed since it was published")


def _reference(source: Path, sha256: str, adapter: str, partial: Path) -> reference.Reference:
    published = volume.read(source / reference.FOLDER, reference.KIND, sha256=sha256)
    if published.facts["adapter"] != adapter:
        raise Mismatch(f"{reference.FOLDER}/ was not recorded with this adapter")
    (entry,) = (file for file in published.files if file["name"] == reference.FILE)
    copied = partial / reference.FILE
    _copy_file(published.path / reference.FILE, entry, copied)
    try:
        return reference.Reference.model_validate_json(copied.read_bytes())
    except ValidationError as error:
        raise Mismatch(f"{reference.FILE} is not valid: {error.error_count()} errors") from None
    finally:
        # It has texts of rows, and vLLM does not need it.
        copied.unlink()


def _template(path: Path, wanted: WantedName) -> str | None:
    """Return the chat template of the job, whose digest the operator stated a second time."""
    content = path.read_bytes() if path.is_file() else None
    digest = None if content is None else hashlib.sha256(content).hexdigest()
    if digest != wanted.template:
        raise Mismatch(f"{TEMPLATE} has the digest {digest} instead of {wanted.template}")
    if content is None:
        return None
    if len(content) > LONGEST_TEMPLATE:
        raise Mismatch(f"{TEMPLATE} has {len(content)} bytes; at most {LONGEST_TEMPLATE} are used")
    return content.decode()


def _different_blocks(published: volume.Folder, partial: Path, base: Base) -> int | None:
    """Return how many blocks of a dequantized base have another scale than in training."""
    entries = {entry["name"]: entry for entry in published.files}
    if base.scales is None or base_equality.SCALES not in entries:
        return None
    copied = partial / base_equality.SCALES
    try:
        _copy_file(published.path / copied.name, entries[copied.name], copied)
        return base_equality.different_blocks(copied, base.scales)
    finally:
        # vLLM does not need it.
        copied.unlink(missing_ok=True)


def require_fits(config: Mapping[str, Any], adapter: Shapes, base: Base) -> None:
    """Raise Mismatch unless vLLM would apply the whole adapter to this base. Pure."""
    if config.get("peft_type") != "LORA":
        raise Mismatch(f"{CONFIG} has peft_type {config.get('peft_type')}: only LORA is served")
    for name in UNSUPPORTED:
        if config.get(name):
            raise Mismatch(
                f"{CONFIG} sets {name}, which an endpoint does not serve: use serving.mode: merged"
            )
    if config.get("bias", "none") != "none":
        raise Mismatch(f"{CONFIG} sets bias, which an endpoint does not serve")
    modules = _modules(adapter)
    if not modules:
        raise Mismatch(f"{WEIGHTS} has no LoRA matrices")
    for module, parts in sorted(modules.items()):
        _require_module(module, parts, base)
    if missing := _expected(config, base) - modules.keys():
        raise Mismatch(
            f"{WEIGHTS} has no matrices for {min(missing)}, which target_modules names "
            f"({len(missing)} modules are missing)"
        )


def _modules(adapter: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shapes of A and B by the module that they change."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in adapter.items():
        part = next((suffix for suffix in PARTS if name.endswith(suffix)), None)
        if part is None or not name.startswith(PREFIX):
            raise Mismatch(f"{WEIGHTS} has {name}, which is no LoRA matrix of the base")
        modules.setdefault(name.removeprefix(PREFIX).removesuffix(part), {})[part] = shape
    return modules


def _require_module(module: str, parts: Mapping[str, tuple[int, ...]], base: Base) -> None:
    weight = base.shapes.get(f"{module}.weight")
    if weight is None:
        raise Mismatch(f"{WEIGHTS} changes {module}, which the base does not have")
    if module.rpartition(".")[2] not in base.modules:
        raise Mismatch(
            f"{WEIGHTS} changes {module}, but the endpoint adapts only "
            f"{', '.join(sorted(base.modules))}"
        )
    if parts.keys() != set(PARTS):
        raise Mismatch(f"{WEIGHTS} has only one of the two matrices of {module}")
    a, b = (parts[part] for part in PARTS)
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != tuple(weight):
        raise Mismatch(f"the matrices of {module} have the shapes {a} and {b}; the base {weight}")
    if a[0] > base.max_rank:
        raise Mismatch(f"{module} has rank {a[0]}; the endpoint's lora.maxRank is {base.max_rank}")


def _expected(config: Mapping[str, Any], base: Base) -> set[str]:
    """Return the modules that the configuration says are adapted."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        raise Mismatch(f"{CONFIG} has no list target_modules")
    modules = {name.removesuffix(".weight") for name in base.shapes if name.endswith(".weight")}
    return {
        module
        for module in modules
        if any(module == target or module.endswith(f".{target}") for target in targets)
    }


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    header, _ = tensor_header.read(path)
    return {
        name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
    }


def sweep(folder: Path, *, boots: Iterable[str]) -> None:
    """Delete the copies of all other starts of the engine."""
    for boot in folder.iterdir() if folder.is_dir() else ():
        if boot.is_dir() and boot.name not in boots:
            shutil.rmtree(boot, ignore_errors=True)
