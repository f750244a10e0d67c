"""Environment variables and log filters that must be set before libraries are imported."""

import logging
import os

from finetune_trainer.runtime import pod_limits

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
PLAIN = {"HF_HUB_DISABLE_XET": "1"}
"""The hub's client reads it when it is imported. Its other protocol has connections of its own, to
which neither the check of connections nor proxies and certificates apply."""

CPU_KERNELS = "bitsandbytes.backends.cpu.ops"
"""Logger that advises to install a package, with which bitsandbytes downloads a kernel for CPUs.

Pods that train have no network, and a GPU does not use the kernel.
"""


def configure() -> None:
    """Silence the libraries and set the number of math threads, unless the user has set them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.update(PLAIN)
    pod_limits.limit_threads(os.environ)
    logging.getLogger(CPU_KERNELS).addFilter(_is_not_about_a_download)


def _is_not_about_a_download(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in record.msg
