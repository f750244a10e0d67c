"""Reads config.json of a base model: from a file, or from the source of the job."""

import os
import tempfile
from pathlib import Path
from typing import Any

from finetune_api.safety import untrusted_json
from finetune_api.v1alpha1.model import Model
from finetune_trainer.errors import InvalidSpec, ModelNotFound, Transient

CONFIG = "config.json"


def of(model: Model, given: Path | None) -> dict[str, Any]:
    """Return config.json of a base model. Raises InvalidSpec or a hub error.

    given: folder or config.json; None to read it from its source.
    """
    if given is not None:
        return read_file(given / CONFIG if given.is_dir() else given)
    try:
        return download(model)
    except Transient as error:
        offline = f"Without a connection, name {CONFIG} of the base model with --model"
        raise Transient(f"{error}. {offline}") from None


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a config.json. Raise InvalidSpec if it is not a JSON object."""
    try:
        document = untrusted_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} is not a JSON object")
    return document


def download(model: Model) -> dict[str, Any]:
    """Return config.json of a base model. Nothing else is downloaded. Raises a hub error."""
    from finetune_trainer.sources import open_store

    token = os.environ.get("HF_TOKEN")
    if token:
        os.environ.setdefault("MODEL_HF_TOKEN", token)
    store = open_store("model", model)
    with tempfile.TemporaryDirectory() as folder:
        repository = store.pin()
        if CONFIG not in repository.files:
            raise ModelNotFound(f"model {store.name} has no {CONFIG}: correct model.source")
        store.download(repository, [CONFIG], Path(folder), on_bytes=lambda count: None)
        return read_file(Path(folder) / CONFIG)
