"""FineTuneProfiles, and the jobs that use them."""

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.followers import ProfileFollowers
from finetune_operator.controller.running import RunningKind
from finetune_operator.kinds.context import Context
from finetune_operator.reconcile import profiles as planner
from finetune_operator.snapshot.profiles import ProfileReader, Profiles
from finetune_operator.types import Snapshot


def running(context: Context, profiles: Profiles, jobs: Controller[Snapshot]) -> RunningKind:
    """Return the parts that reconcile FineTuneProfiles, and wake the jobs that use them."""
    followers = ProfileFollowers(jobs=jobs)
    reader = ProfileReader(live=profiles.live, settings=context.settings)
    controller = context.controller(profiles.live.store, reader, planner, followers, workers=1)
    return RunningKind(
        controller=controller,
        resync=context.resync(controller),
        others=(followers.run,),
    )
