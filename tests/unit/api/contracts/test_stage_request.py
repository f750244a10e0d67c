"""Requests of stages: what an operator writes, the trainer of the same contract reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.contracts.destinations import Destinations
from finetune_api.contracts.publish_targets import OCITarget, PublishTargetRequest, S3Target
from finetune_api.contracts.stage_request import (
    MergeStageRequest,
    PrepareStageRequest,
    PublishStageRequest,
    ServingSettings,
    StageRequest,
    TrainStageRequest,
    parse,
)

PATHS: dict[str, Any] = {"config": "/etc/finetune/job.json", "work": "/work"}
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
REQUESTS: st.SearchStrategy[StageRequest] = st.one_of(
    st.builds(
        PrepareStageRequest,
        config=TEXT,
        work=TEXT,
        cards=st.tuples(TEXT),
        serving=st.none()
        | st.floats(0, 1).map(lambda share: ServingSettings(gpu_memory_utilization=share)),
        destinations=st.none() | st.just(Destinations()),
        ca_certificates=TEXT,
        untrusted_volume=st.booleans(),
    ),
    st.builds(
        TrainStageRequest,
        config=TEXT,
        work=TEXT,
        base_manifest=st.none() | TEXT,
        images=st.dictionaries(TEXT, TEXT),
    ),
    st.builds(MergeStageRequest, config=TEXT, work=TEXT, build=TEXT),
    st.builds(
        PublishStageRequest,
        config=TEXT,
        work=TEXT,
        build=st.none() | TEXT,
        adapter_manifest=st.none() | TEXT,
        destinations=st.none() | st.just(Destinations()),
        targets=st.lists(
            st.builds(
                PublishTargetRequest,
                name=TEXT,
                what=st.sampled_from(["adapter", "merged"]),
                content=TEXT,
                version=TEXT,
                tags=st.tuples(TEXT),
                overwrite=st.booleans(),
                own=st.lists(TEXT).map(tuple),
                annotations=st.dictionaries(TEXT, TEXT),
                oci=st.none() | st.builds(OCITarget, repository=TEXT, ca=st.none() | TEXT),
                s3=st.none() | st.builds(S3Target, uri=TEXT, endpoint=st.none() | TEXT),
            ),
            min_size=1,
        ).map(tuple),
    ),
)


@given(REQUESTS)
def test_a_request_is_read_as_it_was_written(request: StageRequest) -> None:
    argument = request.to_argument()
    assert parse(argument) == request
    assert argument.isascii()


@given(REQUESTS)
def test_the_kubelet_finds_no_variable_in_an_argument(request: StageRequest) -> None:
    """It replaces $(NAME) by a variable, whose value could end a text of the JSON."""
    assert "$" not in request.to_argument()


def test_a_value_with_the_syntax_of_a_variable_is_kept() -> None:
    request = PrepareStageRequest(**PATHS, cards=("$(DATASET_HF_TOKEN)",))
    assert parse(request.to_argument()).cards == ("$(DATASET_HF_TOKEN)",)  # type: ignore[union-attr]


def test_only_values_that_differ_from_their_default_are_written() -> None:
    """The image of an earlier release reads a request without the fields that it does not have."""
    request = PrepareStageRequest(**PATHS, destinations=Destinations())
    assert json.loads(request.to_argument()) == {
        "contract": 3,
        "stage": "prepare",
        **PATHS,
        # Without destinations, all connections would be allowed.
        "destinations": {},
    }


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"novel": 1}, ("train", "novel")),
        ({"contract": 1}, ("train", "contract")),
        ({"contract": 4}, ("train", "contract")),
        ({"base_manifest": "a"}, ("train", "base_manifest")),
        ({"stage": "serve"}, ()),
    ],
)
def test_another_request_is_rejected(changes: dict[str, Any], place: tuple[str, ...]) -> None:
    document = {"stage": "train", **PATHS}
    assert isinstance(parse(json.dumps(document)), TrainStageRequest)
    with pytest.raises(ValidationError) as caught:
        parse(json.dumps(document | changes))
    assert [error["loc"] for error in caught.value.errors()] == [place]
