"""No key of Axolotl is left out: the importer reads it and a table covers it, or it gets a note."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.cli.axolotl.test_axolotl import MINIMAL
from tests.unit.cli.axolotl.test_whole_conversions import DATASETS, RECIPE, REFUSALS, REST

from finetune_api.validation import findings
from finetune_cli.axolotl import keys, messages, row_format, templates
from finetune_cli.axolotl.convert import convert
from finetune_cli.axolotl.notes import Severity
from finetune_cli.axolotl.reader import Settings
from finetune_trainer.errors import InvalidSpec

CHANGES = [*(changes for changes, *_ in (*RECIPE, *REST)), *(changes for changes, _ in REFUSALS)]
ELSEWHERE = {
    "test_datasets",
    "dataset_exact_deduplication",
    "chat_template",
}
"""Keys that tests of their own cover, since their effect depends on other keys."""
CONVERSATION = {"path": "org/rows", "type": "chat_template"}
COMPLETION = {"path": "org/rows", "type": "completion"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Return the keys that the importer has read, with the prefix of their group."""
    found: set[tuple[str, str]] = set()
    peek = Settings.peek

    def recording(settings: Settings, *names: str) -> Any:
        found.update((settings.at, name) for name in names)
        return peek(settings, *names)

    monkeypatch.setattr(Settings, "peek", recording)
    return found


def test_tables_cover_each_key_that_the_importer_reads(read: set[tuple[str, str]]) -> None:
    for entry in (CONVERSATION, COMPLETION, {"path": "org/rows", "type": "sharegpt"}):
        convert(MINIMAL | {"datasets": [entry], "val_set_size": 0.1, "output_dir": "x"})
    written = {key for changes in CHANGES for key in changes}
    assert {name for at, name in read if not at} - written == ELSEWHERE
    rows = {key for changes, *_ in DATASETS for key in changes}
    assert {name for at, name in read if at} - rows == {"chat_template", "chat_template_jinja"}


def test_tables_cover_each_type_of_a_dataset() -> None:
    accepted = {str(changes.get("type", "chat_template")) for changes, *_ in DATASETS}
    assert {*row_format.ALPACA, *row_format.TEXTS, *messages.TYPES} <= accepted


def unread() -> Iterator[tuple[str, Severity]]:
    yield from ((key, severity) for key, (severity, _) in keys.EXACT.items())
    yield from ((f"{prefix}x", severity) for prefix, (severity, _) in keys.PREFIXES.items())
    yield "no_such_setting", Severity.DROPPED


@pytest.mark.parametrize(("key", "severity"), [*unread()])
def test_key_that_is_not_read_gets_one_note(key: str, severity: Severity) -> None:
    _, (note,) = convert(MINIMAL | {key: "x"})
    assert (note.key, note.severity) == (key, severity)
    assert str(note).startswith(f"{severity:<10}  {key}: x: ")


@pytest.mark.parametrize("key", sorted(keys.MEANINGLESS - {"output_dir"}))
def test_key_without_an_effect_gets_no_note(key: str) -> None:
    assert convert(MINIMAL | {key: "x"}) == convert(MINIMAL)


@pytest.mark.parametrize(("package", "severity"), [*keys.PLUGINS.items(), ("x", keys.UNKNOWN)])
def test_plugin_gets_one_note(package: str, severity: tuple[Severity, str]) -> None:
    _, (note,) = convert(MINIMAL | {"plugins": [f"axolotl.integrations.{package}.Plugin"]})
    assert (note.key, note.severity) == ("plugins", severity[0])


ODD: list[Any] = ["text", -1, 1.5, 10**400, True, [], ["text"], [1], {}, {"a": 1}, {1: ["b"]}]


def odd_configurations() -> Iterator[tuple[dict[Any, Any], Any, Any]]:
    """Yield configurations in which one key has a value of any type."""
    known = {key for changes in CHANGES for key in changes} | ELSEWHERE
    for key, value in itertools.product(sorted(known), ODD):
        yield MINIMAL | {key: value}, key, value
    rows = {key for changes, *_ in DATASETS for key in changes} | {"chat_template"}
    for key, value in itertools.product(sorted(rows), ODD):
        yield MINIMAL | {"datasets": [CONVERSATION | {key: value}]}, key, value
    for value in ODD:
        yield MINIMAL | {"datasets": [COMPLETION | {"field": value}]}, "field", value
        yield {1: "x"} | MINIMAL, 1, "x"


def test_value_of_any_type_is_converted_to_a_valid_job_or_refused() -> None:
    for config, key, value in odd_configurations():
        try:
            manifest, _ = convert(config)
        except InvalidSpec:
            continue
        except Exception as error:
            raise AssertionError(f"{key}: {value!r} is not refused") from error
        assert findings(manifest) == [], f"{key}: {value!r}"


def test_named_templates_are_those_that_a_job_can_carry() -> None:
    for name in templates.TEMPLATES:
        manifest, _ = convert(MINIMAL | {"chat_template": name})
        assert manifest["spec"]["dataset"]["chatTemplate"] == templates.TEMPLATES[name]


def test_text_and_instructions_in_one_job_keep_the_alpaca_prompt() -> None:
    rows = [COMPLETION, {"path": "org/questions", "type": "alpaca"}]
    manifest, notes = convert(MINIMAL | {"datasets": rows})
    assert [each.get("promptTemplate") for each in manifest["spec"]["datasets"]] == [None, "alpaca"]
    assert [note.severity for note in notes] == ["changed", "equivalent"]
    assert findings(manifest) == []
