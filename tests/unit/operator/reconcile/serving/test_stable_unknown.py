"""A serving build that the ledger does not contain, as after an incomplete restore of a status."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster

from finetune_operator.actions import Create, Delete, Scale


def test_a_serving_build_without_a_ledger_entry_is_left_alone() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    build = cluster.status["serving"]["build"]
    cluster.status["revisions"] = []
    intended = cluster.plan()
    assert intended.status["serving"]["build"] == build
    touched = [
        action
        for action in intended.actions
        if isinstance(action, Delete | Scale) or action.object["kind"] == "Deployment"
    ]
    assert touched == []
    # The attempt number follows that of the Job that still exists.
    created = [each.object["metadata"]["name"] for each in intended.actions]
    assert [type(each) for each in intended.actions] == [Create]
    assert created[0].endswith("-prepare-2")
