"""Converts a dataset of conversations: columns, keys and roles of messages.

Axolotl's ``chat_template`` renames the properties and roles of messages. A FineTuneJob does the
same with ``format``, ``columns`` and ``mapping``. Source: axolotl, prompt_strategies/chat_template.
"""

from typing import Any, get_args

from finetune_api.v1alpha1.data.rows import Role
from finetune_cli.axolotl.reader import Settings

TYPES = ("chat_template", "messages", "sharegpt")
"""Types of Axolotl whose rows are conversations; sharegpt is one of its older versions."""
COLUMN = {"messages": "messages", "sharegpt": "conversations"}
"""Format → column with the conversation, if ``columns`` names none."""
SHAREGPT = {"role": "from", "content": "value"}
DEFAULT_ROLES = {"user": ["human", "user"], "assistant": ["gpt", "assistant"]}
"""Roles that Axolotl renames if ``roles`` is not set, except those that keep their names."""
THINKING = "reasoning_content"


def conversation(one: Settings, kind: str) -> dict[str, Any]:
    """Return format, columns and mapping of a dataset whose type is one of ``TYPES``."""
    keys = _keys(one, sharegpt=kind == "sharegpt")
    format_ = "sharegpt" if keys == SHAREGPT else "messages"
    column = one.text("field_messages") or ("conversations" if kind == "sharegpt" else "messages")
    columns = {"messages": (column, COLUMN[format_]), "tools": (one.text("field_tools"), "tools")}
    named = {part: name for part, (name, own) in columns.items() if name not in (None, own)}
    mapping: dict[str, Any] = {}
    if format_ == "messages":
        mapping = {part: name for part, name in keys.items() if name != part}
    if roles := _roles(one, format_=format_, renamed="role" in mapping):
        mapping["roles"] = roles
    _note_template(one, kind)
    _note_trained(one)
    _note_thinking(one)
    fields: dict[str, Any] = {"format": format_, "columns": named, "mapping": mapping}
    return {key: value for key, value in fields.items() if value}


def _keys(dataset: Settings, *, sharegpt: bool) -> dict[str, str]:
    """Return the keys of a message that hold its role and its content."""
    old = {part: dataset.text(f"message_field_{part}") for part in ("role", "content")}
    mapping = dataset.mapping("message_property_mappings")
    keys = {part: name for part, name in {**old, **mapping}.items() if name}
    renamed = [
        f"{name} to {part}" for part, name in keys.items() if part not in old and part != name
    ]
    if renamed:
        dataset.dropped(
            "message_property_mappings",
            "the job can rename only the keys for the role and the content of a message: in the "
            f"rows, rename {', '.join(renamed)}",
        )
    standard = SHAREGPT if sharegpt else {part: part for part in old}
    return {part: str(keys.get(part, name)) for part, name in standard.items()}


def _roles(dataset: Settings, *, format_: str, renamed: bool) -> dict[str, str]:
    """Return the roles to rename. The format sharegpt has the default roles of Axolotl."""
    given = dataset.mapping("roles")
    if not given and (format_ == "sharegpt" or not renamed):
        return {}
    possible = get_args(Role)
    targets = given or DEFAULT_ROLES
    if not all(isinstance(sources, list) for sources in targets.values()):
        raise dataset.refusal(
            "roles",
            "is not a map of lists: write the names of each role as a list, such as "
            "assistant: [gpt]",
        )
    if others := sorted(map(str, targets.keys() - possible)):
        dataset.dropped(
            "roles",
            f"a job cannot rename a role to {' or '.join(others)}: the only possible roles are "
            f"{', '.join(possible)}",
        )
    return {
        str(source): target
        for target, sources in targets.items()
        for source in sources
        if target in possible and source != target
    }


def _note_template(dataset: Settings, kind: str) -> None:
    own = dataset.take("conversation")
    if kind == "sharegpt" or own is not None:
        dataset.changed(
            "type" if own is None else "conversation",
            "the chat template of the job renders the conversations",
        )
    if dataset.flag("drop_system_message"):
        dataset.dropped(
            "drop_system_message",
            "the job keeps the system messages: remove them from the rows if the chat template "
            "rejects them",
        )


def _note_trained(dataset: Settings) -> None:
    trained = dataset.list_of_names("roles_to_train")
    if trained not in ([], ["assistant"], ["gpt"]):
        dataset.dropped("roles_to_train", "the loss covers only the messages of the assistant")
    for key, same in (("train_on_eos", "turn"), ("train_on_eot", "turn")):
        if dataset.take(key) not in (None, same):
            dataset.dropped(key, "the loss always covers the end token of each answer")
    if dataset.take("message_field_training", "message_field_training_detail"):
        dataset.dropped(
            "message_field_training",
            "the loss covers all messages of the assistant: to exclude a message from the loss, "
            "set weight: 0 in this message",
        )


def _note_thinking(dataset: Settings) -> None:
    """Note a renamed key; a key of another name reaches the chat template unchanged."""
    source = dataset.text("field_thinking") or THINKING
    target = dataset.text("template_thinking_key") or THINKING
    if source != target:
        dataset.dropped(
            "field_thinking",
            f"the job does not rename the key {source}: rename it to {target} in the rows",
        )
