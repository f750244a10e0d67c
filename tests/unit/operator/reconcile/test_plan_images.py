"""The images that pods ran: in the ledger, in the requests of later stages, and in warnings."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, IMAGE_IDS, Cluster, Thing

from finetune_api.contracts.exitcodes import ExitCode
from finetune_operator.objects import naming, status_view

TRAINER, SERVING = CONFIG.images.trainer, CONFIG.images.serving
MOVED = "registry/trainer@sha256:" + "9" * 64


def images(cluster: Cluster) -> dict[str, Any]:
    """Return the image of each stage in the ledger."""
    (revision,) = cluster.status["revisions"]
    return {each["stage"]: each.get("imageID") for each in revision["stages"]}


def requested(cluster: Cluster, stage: str) -> dict[str, str]:
    """Return the images in the request of a stage."""
    (job,) = [each for each in cluster.each("Job") if naming.label(each, naming.STAGE) == stage]
    return dict(controllers.request_of(job).images)


def serving_pod(cluster: Cluster) -> Thing:
    (pod,) = [each for each in cluster.each("Pod") if naming.label(each, naming.STAGE) == "serve"]
    return pod


def test_the_ledger_has_the_image_of_each_stage_and_later_stages_receive_it() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    trainer, vllm = IMAGE_IDS[TRAINER], IMAGE_IDS[SERVING]
    assert images(cluster) == {
        "prepare": trainer,
        "train": trainer,
        "merge": trainer,
        "serve": vllm,
    }
    assert requested(cluster, "train") == {"prepare": trainer}
    assert requested(cluster, "merge") == {"prepare": trainer, "train": trainer}
    assert cluster.status["warnings"] == []


def test_a_tag_that_moves_between_two_stages_is_reported_once() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.image_ids[TRAINER] = MOVED
    controllers.run(cluster, "train")
    controllers.run(cluster, "merge")
    cluster.settle()
    assert requested(cluster, "merge") == {"prepare": IMAGE_IDS[TRAINER], "train": MOVED}
    raised = [each.message for each in cluster.recorded if each.reason == "WarningRaised"]
    assert raised == cluster.status["warnings"]
    assert raised[0] == (
        f"The train stage runs the image {MOVED}, but an earlier pod of the revision ran "
        f"the image {IMAGE_IDS[TRAINER]}. The name registry/trainer:1 now refers to another image. "
        "To use one image for a whole revision, set the chart value trainer.image.digest. Then set "
        "spec.rerun to a new value to start a new revision."
    )
    assert [each.split(" runs ")[0] for each in raised] == ["The train stage", "The merge stage"]


def test_a_tag_that_moves_between_two_attempts_at_a_stage_is_reported() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare", ExitCode.INVALID_SPEC, "")
    cluster.edit(storage={"size": "90Gi"})
    cluster.image_ids[TRAINER] = MOVED
    cluster.settle()
    assert images(cluster) == {"prepare": IMAGE_IDS[TRAINER]}, "no pod of the retry has started"
    controllers.run(cluster, "prepare")
    cluster.settle()
    assert images(cluster)["prepare"] == MOVED
    (warning,) = cluster.status["warnings"]
    assert warning.startswith(f"The prepare stage runs the image {MOVED}, but an earlier pod")


def test_a_new_serving_pod_with_another_image_is_reported() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    moved = "registry/vllm@sha256:" + "8" * 64
    serving_pod(cluster)["status"]["containerStatuses"][0]["imageID"] = moved
    cluster.settle()
    assert images(cluster)["serve"] == moved
    (warning,) = cluster.status["warnings"]
    assert "registry/vllm:1 now refers to another image" in warning
    assert "serving.image.digest" in warning


def test_the_image_of_a_pod_of_another_controller_is_not_recorded() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    foreign = serving_pod(cluster)
    foreign["metadata"]["ownerReferences"][0]["name"] = "other-5f6"
    foreign["status"]["containerStatuses"][0]["imageID"] = "evil@sha256:" + "7" * 64
    cluster.settle()
    assert images(cluster)["serve"] == IMAGE_IDS[SERVING]


@pytest.mark.parametrize(
    "value", ["", "a b", "x`|\n# heading", "x" * 513, "sha256:\u2028"], ids=lambda text: text[:9]
)
def test_a_value_that_is_no_image_is_not_recorded(value: str) -> None:
    cluster = Cluster()
    cluster.image_ids[TRAINER] = value
    controllers.run(cluster, "prepare")
    cluster.settle()
    assert images(cluster)["prepare"] is None
    assert requested(cluster, "train") == {}


WRONG = CONFIG.model_copy(
    update={"images": CONFIG.images.model_copy(update={"trainer": "registry/trainr:1"})}
)


def reason(cluster: Cluster) -> str:
    return status_view.of(cluster.status).ready_reason


def fail_to_pull(cluster: Cluster, stage: str) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    container = {"name": "trainer", "image": "registry/trainr:1", "state": {"waiting": waiting}}
    status = {"phase": "Pending", "containerStatuses": [container]}
    controllers.pod_of_stage(cluster, stage)["status"] = status
    cluster.wait(60)
    cluster.settle()


def test_a_revision_that_never_started_takes_a_corrected_image() -> None:
    cluster = Cluster(config=WRONG)
    cluster.settle()
    controllers.sync(cluster)
    fail_to_pull(cluster, "prepare")
    assert reason(cluster) == "ImagePullFailed"
    before = cluster.status["revisions"][0]["frozen"]
    cluster.config = CONFIG
    cluster.settle()
    # The kubelet ends a pod without containers at once.
    (pod,) = cluster.each("Pod")
    cluster.remove(pod)
    controllers.collect(cluster)
    controllers.run_all(cluster)
    assert reason(cluster) == "Serving"
    (revision,) = cluster.status["revisions"]
    assert TRAINER in revision["frozen"]["operator"]
    assert revision["frozen"]["jobDigest"] == before["jobDigest"]
    assert revision["frozen"]["operatorDigest"] != before["operatorDigest"]
    jobs = [each["spec"]["template"]["spec"]["containers"][0] for each in cluster.each("Job")]
    assert {each["image"] for each in jobs} == {TRAINER}
    (configmap,) = cluster.each("ConfigMap")
    assert TRAINER in configmap["data"]["operator.json"]


def test_a_revision_keeps_its_images_once_a_container_has_started() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    fail_to_pull(cluster, "train")
    assert reason(cluster) == "ImagePullFailed"
    before = cluster.status["revisions"]
    cluster.config = WRONG
    cluster.settle()
    assert cluster.status["revisions"] == before
    message = status_view.of(cluster.status).conditions["Ready"]["message"]
    assert "set spec.rerun to a new value" in message


def test_a_started_container_whose_image_is_unknown_keeps_the_images() -> None:
    cluster = Cluster()
    cluster.image_ids[TRAINER] = "not an image"
    cluster.settle()
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "prepare"))
    cluster.settle()
    cluster.edit(suspend=True)
    cluster.settle()
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "prepare"))
    controllers.collect(cluster)
    controllers.collect(cluster)
    cluster.edit(suspend=False)
    cluster.settle()
    controllers.sync(cluster)
    fail_to_pull(cluster, "prepare")
    assert reason(cluster) == "ImagePullFailed"
    before = cluster.status["revisions"][0]["frozen"]
    cluster.config = WRONG
    cluster.settle()
    assert cluster.status["revisions"][0]["frozen"] == before


def test_a_build_that_never_served_takes_a_corrected_serving_image() -> None:
    images = CONFIG.images.model_copy(update={"serving": "registry/vlm:1"})
    cluster = Cluster(config=CONFIG.model_copy(update={"images": images}))
    for stage in ("prepare", "train", "merge"):
        controllers.run(cluster, stage)
    cluster.settle()
    controllers.sync(cluster)
    fail_to_pull(cluster, "serve")
    assert reason(cluster) == "ImagePullFailed"
    assert "spec.rerun would train again" in str(cluster.status["conditions"][0]["message"])
    revisions = [each["revision"] for each in cluster.status["revisions"]]
    moved = CONFIG.images.model_copy(update={"trainer": "registry/trainer:2"})
    cluster.config = CONFIG.model_copy(update={"images": moved})
    cluster.settle()
    (deployment,) = cluster.each("Deployment")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    assert SERVING in [each["image"] for each in containers]
    assert [each["revision"] for each in cluster.status["revisions"]] == revisions
    frozen = cluster.status["revisions"][0]["frozen"]["operator"]
    assert TRAINER in frozen
    assert "registry/trainer:2" not in frozen


def test_a_deadline_without_a_started_container_says_so() -> None:
    cluster = Cluster(config=WRONG)
    cluster.settle()
    controllers.sync(cluster)
    fail_to_pull(cluster, "prepare")
    (job,) = cluster.each("Job")
    (pod,) = cluster.each("Pod")
    cluster.remove(pod)
    controllers.overdue(cluster, job)
    controllers.sync(cluster)
    cluster.settle()
    assert reason(cluster) == "DeadlineExceeded"
    message = str(cluster.status["conditions"][0]["message"])
    assert message.startswith("No container of Job demo-")


def test_other_changes_of_the_images_do_not_stop_a_job_that_waits() -> None:
    cluster = Cluster()
    cluster.settle()
    controllers.sync(cluster)
    cluster.config = WRONG
    before = [each["metadata"]["uid"] for each in cluster.each("Job")]
    cluster.settle()
    assert [each["metadata"]["uid"] for each in cluster.each("Job")] == before
