"""Converts a configuration to a FineTuneJob, with a note for each setting that is not copied."""

import re
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.crd.resources import NAME_MAX_LENGTH, NAME_PATTERN, NAME_RULE
from finetune_api.defaulting import InvalidSpec as Unresolvable
from finetune_api.defaulting import builtin_defaults, resolve
from finetune_api.rules import matches
from finetune_api.v1alpha1.sources import HF_SOURCE
from finetune_cli.axolotl import data, keys, recipe, templates
from finetune_cli.axolotl.notes import Note, by_severity
from finetune_cli.axolotl.reader import Settings
from finetune_cli.axolotl.refusals import refuse_other_trainings
from finetune_trainer.errors import InvalidSpec


def convert(
    config: dict[str, Any], *, name: str | None = None
) -> tuple[dict[str, Any], list[Note]]:
    """Return a valid FineTuneJob, and notes about the conversion. Raises InvalidSpec."""
    if name is not None:
        _check_name(name)
    settings = Settings(config, [])
    refuse_other_trainings(settings)
    model = _model(settings)
    entries = data.training_entries(settings)
    template = templates.chat_template(
        settings, entries, base=model["source"].removeprefix("hf://")
    )
    rows = data.training_data(settings, entries, template=template)
    own = data.evaluation_dataset(settings)
    held_out = own is not None or settings.number("val_set_size")
    spec = {
        "model": model,
        **rows,
        **({"evaluation": {"dataset": own}} if own else {}),
        "training": recipe.training(settings, held_out=bool(held_out)),
    }
    _note_plugins_and_tokens(settings)
    settings.finish()
    try:
        resolve(spec, builtin_defaults())
    except Unresolvable as error:
        raise InvalidSpec(
            f"the configuration converts to an invalid FineTuneJob: {error}"
        ) from None
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name or _name(config)},
        "spec": spec,
    }
    return manifest, by_severity(settings.notes)


def _note_plugins_and_tokens(settings: Settings) -> None:
    for name, severity, text in keys.plugins(settings.list_of_names("plugins")):
        text = f"plugins: {name}: {text}"
        settings.notes.append(Note(severity=severity, key="plugins", text=text))
    tokens = settings.take("special_tokens")
    if isinstance(tokens, dict) and {key for key, value in tokens.items() if value} - {"pad_token"}:
        settings.changed("special_tokens", "the job uses the special tokens of the base model")


def _model(settings: Settings) -> dict[str, Any]:
    name = settings.text("base_model") or ""
    source = name if name.startswith("hf://") else f"hf://{name}"
    if not re.fullmatch(HF_SOURCE, source):
        raise settings.refusal(
            "base_model",
            "is not a repository on the Hugging Face Hub: set base_model to a repository, as "
            "organization/name",
        )
    revision = settings.text("revision_of_model")
    return {"source": source, **({"revision": revision} if revision else {})}


def _check_name(name: str) -> None:
    if matches(NAME_PATTERN, NAME_RULE).fails(name) or len(name) > NAME_MAX_LENGTH:
        raise InvalidSpec(f"--name {name} is not a valid name: {NAME_RULE}")


def _name(config: dict[str, Any]) -> str:
    """Return a name for the job. It must be a DNS label, since a Service gets the same name."""
    wanted = str(config.get("output_dir") or "").rstrip("/").rsplit("/", 1)[-1]
    wanted = wanted or str(config.get("base_model")).rsplit("/", 1)[-1]
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-").lstrip("0123456789-")
    return plain[:NAME_MAX_LENGTH].strip("-") or "imported"
