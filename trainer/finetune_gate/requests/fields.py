"""Which fields of a request reach vLLM: those of a list. Every other one is rejected. Pure.

vLLM's own server trusts its callers. Among its fields are some that run a template of the caller in
the renderer that all names share, that read or write the cache of others, that overtake other
requests, or that load a file or an address. A new release of vLLM adds more, so a field that is not
known here is rejected and named.
"""

from collections.abc import Callable, Mapping
from typing import Any

from finetune_gate.errors import BadRequest

Body = dict[str, Any]

SAMPLING = frozenset(
    {
        "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "logit_bias", "logprobs",
        "max_tokens", "min_p", "min_tokens", "model", "n", "presence_penalty",
        "repetition_penalty", "response_format", "seed", "skip_special_tokens", "stop",
        "stop_token_ids", "stream", "stream_options", "temperature", "top_k", "top_p", "user",
    }
)  # fmt: skip
CHAT = SAMPLING | {
    "chat_template_kwargs", "include_reasoning", "max_completion_tokens", "messages",
    "parallel_tool_calls", "reasoning_effort", "tool_choice", "tools", "top_logprobs",
}  # fmt: skip
COMPLETION = SAMPLING | {"prompt"}
TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking"})
"""Arguments of chat templates that callers may set, to true or false."""
MESSAGE = frozenset(
    {"content", "name", "reasoning_content", "refusal", "role", "tool_call_id", "tool_calls"}
)
"""Fields of a message. Others carry media, which vLLM would load."""
STREAM_OPTIONS = frozenset({"include_usage"})
SET_BY_GATE = {
    "chat_template": "the template of the model's training is always used",
    "cache_salt": "prompts of different callers are always cached apart",
    "priority": "all requests of a model have the same priority",
    "echo": "only generated tokens are returned",
    "prompt_logprobs": "only log-probabilities of generated tokens are returned (logprobs)",
    "kv_transfer_params": "the cache of the engine is not accessible",
    "ec_transfer_params": "the cache of the engine is not accessible",
    "vllm_xargs": "no arguments are passed to extensions of the engine",
}
"""Why a field is rejected, where the caller can expect another behavior."""


def forwarded_chat(body: Body, *, internal: str, salt: str, template: str | None) -> Body:
    """Return the request for vLLM of a request to /v1/chat/completions. Raise BadRequest.

    internal: name of the adapter in the engine. template: chat template of the job.
    """
    _only(body, CHAT)
    _check(body, "messages", _are_messages, "a list of messages whose content is text")
    switches = f"only {_list(TEMPLATE_SWITCHES)}, each true or false"
    _check(body, "chat_template_kwargs", _are_switches, switches)
    sent = _forwarded(body, internal=internal, salt=salt)
    return sent if template is None else {**sent, "chat_template": template}


def forwarded_completion(body: Body, *, internal: str, salt: str) -> Body:
    """Return the request for vLLM of a request to /v1/completions. Raise BadRequest."""
    _only(body, COMPLETION)
    _check(body, "prompt", _is_prompt, "one text or one list of token ids; send a request for each")
    return _forwarded(body, internal=internal, salt=salt)


def _forwarded(body: Body, *, internal: str, salt: str) -> Body:
    # Each answer occupies the engine like a request of its own, which ``fairness`` must count.
    _check(body, "n", lambda n: type(n) is int and n == 1, "1; send a request for each answer")
    _check(body, "stream", lambda stream: type(stream) is bool, "true or false")
    _check(body, "stream_options", _are_stream_options, f"only {_list(STREAM_OPTIONS)}")
    sent = {**body, "model": internal, "cache_salt": salt}
    if body.get("stream"):
        # The gate counts tokens; ``wants_usage`` says whether the caller sees the numbers.
        sent["stream_options"] = {"include_usage": True}
    else:
        sent.pop("stream_options", None)
    return sent


def wants_usage(body: Body) -> bool:
    """Report whether the caller of a stream asked for the number of tokens."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _only(body: Mapping[str, Any], allowed: frozenset[str]) -> None:
    for name in body:
        if name not in allowed:
            why = SET_BY_GATE.get(name, "this endpoint does not support the field")
            raise BadRequest(name, f"{name}: {why}. Remove the field")


def _check(body: Body, name: str, is_valid: Callable[[Any], bool], expected: str) -> None:
    """Raise BadRequest if a field that is set has another value. Null is as if it were not set."""
    if body.get(name) is not None and not is_valid(body[name]):
        raise BadRequest(name, f"{name}: expected {expected}")


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, dict) and message.keys() <= MESSAGE and _is_text(message.get("content"))
        for message in value
    )


def _is_text(content: Any) -> bool:
    """Report whether content has no images, audio or files."""
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
        for part in content
    )


def _are_switches(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= TEMPLATE_SWITCHES
        and all(type(switch) is bool for switch in value.values())
    )


def _are_stream_options(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= STREAM_OPTIONS


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(type(token) is int for token in value)
    )


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
