"""The operator, as kopf runs it: what happens at the start, for each event, and at the end.

``python -m finetune_operator`` and ``kopf run -m finetune_operator.app -A`` both start it; if the
configuration names ``watchNamespaces``, ``kopf run`` needs the same names as ``-n`` instead of
``-A``. ``environment`` lists the variables that configure it.

kopf owns the process: its event loop, its signals and the watch of our own kinds of objects, each
of which has one handler here. A handler stores the object, and the store wakes the work queue;
everything that the operator does is decided there (``controller``). kopf is asked to write nothing
to objects, and has no handler that would need it to. docs/development/adr-kopf.md explains which
parts of kopf are used, and why.
"""

import os
from typing import Any

import kopf

from finetune_operator import environment, manager
from finetune_operator.kube import auth, kopf_settings
from finetune_operator.kube.kinds import (
    FINETUNEBUDGET,
    FINETUNEENDPOINT,
    FINETUNEJOB,
    FINETUNEPROFILE,
    KINDS,
)
from finetune_operator.telemetry import logs


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Start all parts. kopf opens its watches only after this, so nothing here waits for them.

    An error ends the process: a pod whose configuration is wrong must not look as if it ran.
    """
    kopf_settings.configure(settings)
    variables = environment.read(os.environ)
    process, jobs = environment.load_config(variables.config_file)
    if settings.peering.clusterwide == bool(process.watch_namespaces):
        options = " ".join(f"-n {name}" for name in process.watch_namespaces) or "-A"
        raise kopf.PermanentError(
            f"{variables.config_file}: kopf must watch the namespaces in watchNamespaces, or all "
            f"of them if there are none. Run kopf with: {options}"
        )
    logs.configure(process.log_level)
    memo.manager = await manager.start(process, jobs, variables)


@kopf.on.login(retries=1)
async def login(**_: Any) -> kopf.AiohttpSession:
    """Return the session of kopf's requests, with the credentials of our own client."""
    return await auth.kopf_login()


@kopf.on.event(*KINDS[FINETUNEJOB].resource)
async def finetunejob(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Store a FineTuneJob that was listed, or that has changed, and wake its reconcile."""
    memo.manager.kinds[FINETUNEJOB].deliver(event["type"], event["object"])


@kopf.on.event(*KINDS[FINETUNEPROFILE].resource)
async def finetuneprofile(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Store a FineTuneProfile that was listed, or that has changed, and wake its reconcile."""
    memo.manager.kinds[FINETUNEPROFILE].deliver(event["type"], event["object"])


@kopf.on.event(*KINDS[FINETUNEBUDGET].resource)
async def finetunebudget(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Store a FineTuneBudget that was listed, or that has changed, and wake its reconcile."""
    memo.manager.kinds[FINETUNEBUDGET].deliver(event["type"], event["object"])


@kopf.on.event(*KINDS[FINETUNEENDPOINT].resource)
async def finetuneendpoint(event: Any, memo: kopf.Memo, **_: Any) -> None:
    """Store a FineTuneEndpoint that was listed, or that has changed, and wake its reconcile."""
    memo.manager.kinds[FINETUNEENDPOINT].deliver(event["type"], event["object"])


@kopf.on.cleanup(errors=kopf.ErrorsMode.PERMANENT)
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop all parts, and release the Lease. Raises the error that ended a part before."""
    kopf_settings.cancel_watches()
    await memo.manager.stop()
