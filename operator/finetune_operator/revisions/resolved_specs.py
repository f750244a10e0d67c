"""Remembers resolved specs: most reconciles resolve the same spec with the same defaults again.

Results depend on nothing but their inputs, so jobs with equal specs share a result, and results
share equal groups of fields.
"""

from collections import OrderedDict
from sys import getsizeof
from weakref import WeakValueDictionary

from finetune_api.base import Values
from finetune_api.defaulting import Resolved, resolve
from finetune_api.markers import ApiModel
from finetune_operator.objects.digest import sha256

REMEMBERED_BYTES = 16 << 20
"""Size of the resolved specs that are kept in memory; users decide how large a spec is."""
RESOLVED_BYTES = 2400
"""Measured size of a resolved spec that differs from others in one group; 18 kB without sharing."""


class ResolvedSpecs:
    """The results of ``resolve`` that were used most recently, within ``REMEMBERED_BYTES``.

    They depend on nothing but their inputs, so jobs with equal specs share a result.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[tuple[str, int], tuple[Values, Resolved, int]] = OrderedDict()
        """By digest of the spec and identity of the defaults: the defaults, the result, its size.

        The defaults are never changed. They are part of the entry so that they keep their identity.
        """
        self._bytes = 0
        self._groups: WeakValueDictionary[tuple[type, str], ApiModel] = WeakValueDictionary()
        """Groups of fields by type, values and which values are set; most jobs differ in few."""
        self._names: WeakValueDictionary[str, set[str]] = WeakValueDictionary()
        """The sets of the names of the fields that are set in a group."""

    def resolve(self, spec: Values, defaults: Values) -> Resolved:
        """Return a spec completed with defaults. Raises InvalidSpec."""
        key = (sha256(spec), id(defaults))
        remembered = self._results.get(key)
        if remembered is not None:
            self._results.move_to_end(key)
            return remembered[1]
        result = resolve(spec, defaults)
        self._share(result.spec)
        # A text has as many bytes per character as its widest character needs.
        size = RESOLVED_BYTES + 2 * getsizeof(repr(spec))
        self._results[key] = (defaults, result, size)
        self._bytes += size
        while self._bytes > REMEMBERED_BYTES:
            _, (*_, forgotten) = self._results.popitem(last=False)
            self._bytes -= forgotten
        return result

    def _share(self, group: ApiModel) -> None:
        """Replace the groups in a new group, and its set of names, by those of earlier results."""
        names = group.model_fields_set
        shared_names = self._names.setdefault(",".join(sorted(names)), names)
        object.__setattr__(group, "__pydantic_fields_set__", shared_names)
        for name, value in list(group.__dict__.items()):
            if isinstance(value, ApiModel):
                values, written = (
                    value.model_dump(mode="json", exclude_unset=unset) for unset in (False, True)
                )
                key = (type(value), sha256([values, written]))
                shared = self._groups.get(key)
                if shared is None:
                    self._share(value)
                    self._groups[key] = shared = value
                group.__dict__[name] = shared


RESOLVED = ResolvedSpecs()
"""Most reconciles resolve the same spec with the same defaults again, which takes pydantic longer
than the rest of the plan."""
