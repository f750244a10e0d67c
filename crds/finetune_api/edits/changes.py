"""The fields in which two complete specs differ. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.base import Values
from finetune_api.layering import Path, value_at, without_nulls
from finetune_api.markers import ApiModel, Edit, extra_of
from finetune_api.v1alpha1.spec import FineTuneJobSpec


@dataclass(frozen=True, kw_only=True)
class Change:
    """A field, or a list of groups, whose value is another one."""

    path: Path
    before: Any
    """None if the field is not set."""
    after: Any
    edits: frozenset[Edit]
    """The edit classes of the fields that differ: a list of groups can have several."""
    written: bool
    """Whether the spec sets the field; otherwise a default has changed."""

    @property
    def field(self) -> str:
        """The path as text, such as ``training.epochs``."""
        return ".".join(self.path)


def changes(before: FineTuneJobSpec, after: FineTuneJobSpec, *written: Values) -> list[Change]:
    """Return the changed fields in the order of the spec. written: the specs of the user."""
    return [
        Change(
            path=path,
            before=old,
            after=new,
            edits=edits,
            written=any(value_at(spec, path) is not None for spec in written),
        )
        for path, old, new, edits in _different(before, after, ())
    ]


def _different(
    before: ApiModel | None, after: ApiModel | None, at: Path
) -> Iterator[tuple[Path, Any, Any, frozenset[Edit]]]:
    """Yield path, values and edit classes of the fields in which two groups differ."""
    group = before if before is not None else after
    assert group is not None, "one of the groups is set"
    for name, info in type(group).model_fields.items():
        old, new = (None if side is None else getattr(side, name) for side in (before, after))
        if old == new:
            continue
        path, edit = (*at, info.alias or name), extra_of(info).edit
        if _is_group(old) or _is_group(new):
            yield from _different(old, new, path)
        elif _is_of_groups(old) or _is_of_groups(new):
            yield path, _plain(old), _plain(new), frozenset(_of_lists(old or [], new or [], edit))
        else:
            yield path, _plain(old), _plain(new), frozenset({edit})


def _of_lists(before: list[Any], after: list[Any], edit: Edit) -> Iterator[Edit]:
    """Yield the edit classes of the fields in which two lists of groups differ."""
    if len(before) != len(after):
        yield edit
    for old, new in zip(before, after, strict=False):
        if old == new:
            continue
        if not _is_group(new):
            yield edit
            continue
        for *_, edits in _different(old, new, ()):
            yield from edits


def _is_group(value: Any) -> bool:
    return isinstance(value, ApiModel) and not value.atomic


def _is_of_groups(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(entry, ApiModel) for entry in value)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, without fields that are not set."""
    if isinstance(value, ApiModel):
        return without_nulls(value.model_dump(mode="json", exclude_unset=True))
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return dict(value) if isinstance(value, Mapping) else value
