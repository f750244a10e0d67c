"""Record the objects of a job in each stage, as the operator of a commit creates them.

Run it with the packages and the fakes of a checkout of that commit::

    PYTHONPATH=$old/operator:$old/crds:$old python record_states.py >states_c4ef82fc.json
"""

import json
import sys
from typing import Any

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

STATES = ("prepare", "train", "merge", "serve", "ready")


def recorded(state: str) -> dict[str, Any]:
    """Return the content of a cluster whose job runs a stage, or is ready."""
    cluster = Cluster()
    for stage in STATES[: STATES.index(state)]:
        if stage == "serve":
            controllers.serve(cluster)
        else:
            controllers.run(cluster, stage)
    cluster.settle()
    controllers.sync(cluster)
    for pod in list(cluster.each("Pod")):
        if pod["metadata"]["labels"].get("finetune.dev/stage") == state:
            controllers.start(cluster, pod)
    cluster.settle()
    objects = [{"kind": kind, **thing} for (kind, _), thing in sorted(cluster.objects.items())]
    return {"job": cluster.job, "objects": objects}


def compact(states: dict[str, Any]) -> str:
    """Return JSON with a line for each object, which several states may contain."""
    lines: dict[str, None] = {}
    for state in states.values():
        lines |= dict.fromkeys(map(_line, state["objects"]))
    numbers = {line: number for number, line in enumerate(lines)}
    jobs = {
        name: {"job": state["job"], "objects": [numbers[_line(each)] for each in state["objects"]]}
        for name, state in states.items()
    }
    joined = ",\n".join(lines)
    return f'{{"objects": [\n{joined}\n], "states": {_line(jobs)}}}\n'


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    sys.stdout.write(compact({state: recorded(state) for state in STATES}))
