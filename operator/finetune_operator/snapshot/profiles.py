"""The FineTuneProfiles: those of a job's snapshot, and the snapshot of a profile itself."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from finetune_operator.config import Settings
from finetune_operator.objects import naming
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.types import NO_JOBS, Key, Object, Plan, ProfileSnapshot


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """The profiles that apply to jobs. Every method that awaits raises OperatorError."""

    live: LiveReader
    _versions: dict[Key, tuple[int, Object | None]] = field(default_factory=dict)
    """Version of each profile, and the profile if it is a default."""

    async def of(self, job: Object) -> tuple[Object, ...]:
        """Return the profile that a job names, or all default profiles if it names none."""
        name = job["spec"].get("profile")
        if name is None:
            return self._defaults()
        profile = await self.live.owner(("", name))
        return () if profile is None else (profile,)

    def _defaults(self) -> tuple[Object, ...]:
        """Return the default profiles; each version of a profile is decoded once."""
        store = self.live.store
        kind, keys = store.watches.own, store.own_keys()
        for key in keys:
            version = store.version(kind, key)
            if self._versions.get(key, (0, None))[0] != version:
                profile = store.owner(key)
                is_default = profile is not None and naming.is_default_profile(profile)
                self._versions[key] = version, profile if is_default else None
        for gone in self._versions.keys() - keys:
            del self._versions[gone]
        return tuple(default for _, default in self._versions.values() if default is not None)

    async def list(self) -> None:
        """Read all profiles, so that it is known which ones are the default."""
        async for page in self.live.kube.pages(self.live.store.watches.own):
            for profile in page.items:
                self.live.store.put(profile)


@dataclass(frozen=True, kw_only=True)
class ProfileReader:
    """Takes the snapshot of a profile from the store."""

    live: LiveReader
    settings: Settings

    async def read(
        self,
        key: Key,
        *,
        live: Set[str] = frozenset(),
        names: Iterable[tuple[str, str]] = (),
        created: Mapping[str, bool] = NO_JOBS,
    ) -> ProfileSnapshot | None:
        """Return the snapshot of a profile, None if it does not exist. Raises OperatorError."""
        await self.live.refresh(key, live)
        profile = self.live.store.owner(key)
        if profile is None:
            return None
        return ProfileSnapshot(profile=profile, settings=self.settings)

    async def complete(self, key: Key, plan: Plan) -> bool:
        """Read nothing more: a plan depends on the profile alone."""
        return False

    def wait(self, key: Key, snapshot: ProfileSnapshot, plan: Plan) -> float:
        """Return 0: no plan waits for information."""
        return 0.0

    def forget(self, key: Key) -> None:
        """Forget nothing: the store alone remembers profiles."""
