"""The settings that restrict kopf to one watch of each of our own kinds."""

import itertools
import re

import kopf

from finetune_operator.kube import kopf_settings


def configured() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    kopf_settings.configure(settings)
    return settings


def test_all_jobs_are_watched() -> None:
    resource = kopf.Resource(group="finetune.dev", version="v1alpha1", plural="finetunejobs")
    assert configured().watching.label_selectors.collect(resource) == []


def test_requests_are_retried_forever_at_most_8_seconds_apart() -> None:
    delays = configured().networking.error_backoffs
    assert isinstance(delays, kopf_settings.EndlessBackoff)
    for _ in range(2):
        taken = list(itertools.islice(delays, 1000))
        assert (len(taken), taken[0], max(taken)) == (1000, 0.5, 8.0)


def test_no_object_can_have_the_finalizer_that_kopf_would_remove() -> None:
    """The API server accepts only qualified names."""
    qualified = r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
    assert not re.fullmatch(qualified, configured().persistence.finalizer)


def test_a_process_that_hangs_at_its_end_is_killed_before_the_kubelet_does_it() -> None:
    timeout = configured().process.ultimate_exiting_timeout
    assert timeout is not None
    assert 5 < timeout < 10
