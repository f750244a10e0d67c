"""Arguments of a stage about the volume of an earlier job."""

import pytest

from finetune_api.v1alpha1.ledger import Revision
from finetune_operator.manifests import earlier_stages
from finetune_operator.objects.stages import Stage
from finetune_trainer.__main__ import parser

KNOWN, EARLIER = Revision(revision="r1"), Revision(revision="r1", untrusted_volume="uid")


def test_prepare_accepts_the_argument_about_a_volume_of_an_earlier_job() -> None:
    arguments = earlier_stages.volume("prepare", EARLIER)
    options = parser().parse_args(["prepare", "--config", "c", "--work", "w", *arguments])
    assert options.untrusted_volume


@pytest.mark.parametrize(
    ("stage", "record"), [("prepare", KNOWN), ("train", EARLIER), ("merge", EARLIER)], ids=str
)
def test_no_other_stage_has_the_argument(stage: Stage, record: Revision) -> None:
    assert earlier_stages.volume(stage, record) == []
