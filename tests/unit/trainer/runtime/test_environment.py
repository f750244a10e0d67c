"""Libraries log no advice that a user cannot follow."""

import logging

import pytest

from finetune_trainer.runtime import environment


def test_the_advice_to_download_a_cpu_kernel_is_silenced(caplog: pytest.LogCaptureFixture) -> None:
    environment.configure()
    logger = logging.getLogger(environment.CPU_KERNELS)
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "x")
    logger.warning("another warning")
    assert [record.getMessage() for record in caplog.records] == ["another warning"]
