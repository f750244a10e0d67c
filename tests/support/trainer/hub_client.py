"""A plain client of a hub, as those have it who get a published model."""

import ssl
from pathlib import Path

import httpx
import huggingface_hub
from huggingface_hub.utils._http import default_client_factory
from tests.fakes.model_hub import TOKEN, ModelHub
from tests.support.trainer.web import Certificate


def download(
    hub: ModelHub, certificate: Certificate, repo: str, revision: str, folder: Path
) -> Path:
    """Download a commit into a folder, and return it."""
    context = ssl.create_default_context(cafile=str(certificate.authority))
    huggingface_hub.set_client_factory(lambda: httpx.Client(verify=context))
    try:
        huggingface_hub.snapshot_download(
            repo, revision=revision, local_dir=folder, endpoint=hub.url, token=TOKEN
        )
    finally:
        huggingface_hub.set_client_factory(default_client_factory)
    return folder
