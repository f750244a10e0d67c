"""Detects that etcd was restored from a backup: a list contradicts what was observed before.

After a restore, versions are lower than before, or all of them are higher (``etcdutl snapshot
restore --bump-revision``) while the objects have their versions of the backup. In both cases no
version in the store is comparable any more, and the process must restart.
"""

from finetune_operator.kube.client import Page
from finetune_operator.kube.errors import Restored
from finetune_operator.kube.kinds import KINDS
from finetune_operator.snapshot.store import ObjectStore, name_of, version_of


def check(store: ObjectStore, kind: str, page: Page, newest: int) -> None:
    """Raise Restored if a page of a list contradicts the store. newest: version of earlier lists.

    A list contains all changes up to its version. Objects in the store may be newer than the list.
    """
    listed, plural = int(page.version), KINDS[kind].plural
    if listed < newest:
        raise Restored(
            f"the list of {plural} has resourceVersion {listed}, but the operator has observed the "
            f"newer resourceVersion {newest} before: etcd was restored from a backup. The operator "
            "restarts with an empty cache."
        )
    for item in page.items:
        observed = store.version(kind, name_of(item))
        if version_of(item) < observed <= listed:
            raise Restored(
                f"the operator observed {'/'.join(name_of(item))} with resourceVersion {observed}. "
                f"A later list of {plural} (resourceVersion {listed}) contains this object with "
                f"the older resourceVersion {version_of(item)}: etcd was restored from a backup. "
                "The operator restarts with an empty cache."
            )
