"""Chat templates with the structure of well-known families, and small matching tokenizers.

The templates were written for these tests, because not all licenses of the originals allow copies.
They have the same special tokens, order of parts and peculiarities. Each tokenizer has the special
tokens of its family, and a few hundred merges of ordinary text.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

CORPUS = [
    "What is the capital of France? The capital of France is Paris.",
    "You are a helpful assistant. Answer briefly and in plain words.",
    "system user assistant instruction response question answer today date",
] * 3


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template, its special tokens, and the texts of the tokens that end an answer."""

    name: str
    template: str
    marks: tuple[str, ...]
    eos: str
    bos: str | None = None
    stops: tuple[str, ...] = ()

    def tokenizer(self) -> Any:
        return _tokenizer(self)

    def stop_ids(self) -> list[int]:
        known = self.tokenizer()
        return [known.convert_tokens_to_ids(each) for each in (self.eos, *self.stops)]


@cache
def _tokenizer(family: Family) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(family.marks),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    if family.bos:
        # Like in the families, text that is tokenized without a template also starts with this
        # token.
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A",
            special_tokens=[(family.bos, backend.token_to_id(family.bos))],
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=family.eos,
        pad_token=family.eos,
        bos_token=family.bos,
        additional_special_tokens=[m for m in family.marks if m not in (family.eos, family.bos)],
    )
    made.chat_template = family.template
    return made


LLAMA_3 = Family(
    name="Llama-3",
    marks=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    stops=("<|eot_id|>",),
    template=(
        "{% for turn in messages %}"
        "{% set block = '<|start_header_id|>' ~ turn['role'] ~ '<|end_header_id|>\n\n'"
        " ~ (turn['content'] | trim) ~ '<|eot_id|>' %}"
        "{{ (bos_token ~ block) if loop.first else block }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
)
LLAMA_3_1 = Family(
    name="Llama-3.1",
    marks=(*LLAMA_3.marks, "<|eom_id|>", "<|python_tag|>"),
    bos=LLAMA_3.bos,
    eos=LLAMA_3.eos,
    stops=("<|eom_id|>", "<|eot_id|>"),
    template=(
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}\n"
        '    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}\n'
        '    {%- else %}{%- set date_string = "01 Jan 2030" %}{%- endif %}\n'
        "{%- endif %}\n"
        "{%- set instructions, turns = '', messages %}\n"
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set instructions = messages[0]['content'] | trim %}\n"
        "    {%- set turns = messages[1:] %}\n"
        "{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}\n"
        "{{- 'Today Date: ' ~ date_string ~ '\n\n' ~ instructions ~ '<|eot_id|>' }}\n"
        "{%- for turn in turns %}\n"
        "    {{- '<|start_header_id|>' ~ turn['role'] ~ '<|end_header_id|>\n\n' }}\n"
        "    {{- (turn['content'] | trim) ~ '<|eot_id|>' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n"
        "{%- endif %}\n"
    ),
)
QWEN = Family(
    name="Qwen",
    marks=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    eos="<|im_end|>",
    stops=("<|endoftext|>",),
    template=(
        "{%- if messages[0]['role'] != 'system' %}\n"
        "    {{- '<|im_start|>system\nAnswer in plain words.<|im_end|>\n' }}\n"
        "{%- endif %}\n"
        "{%- for turn in messages %}\n"
        "    {{- '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content ~ '<|im_end|>\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\n' }}\n"
        "{%- endif %}\n"
    ),
)
QWEN_3 = Family(
    name="Qwen-3",
    marks=(*QWEN.marks, "<think>", "</think>"),
    eos="<|im_end|>",
    stops=("<|endoftext|>",),
    # Renders only the reasoning of the last answer, or an empty reasoning.
    template=(
        "{%- set ns = namespace(last=0) %}\n"
        "{%- for turn in messages %}\n"
        "    {%- if turn.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}\n"
        "{%- endfor %}\n"
        "{%- for turn in messages %}\n"
        "    {%- set text = turn.content %}\n"
        "    {%- set thought = '' %}\n"
        "    {%- if '</think>' in text %}\n"
        "        {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}\n"
        "        {%- set text = text.split('</think>')[-1].lstrip('\n') %}\n"
        "    {%- endif %}\n"
        "    {{- '<|im_start|>' ~ turn.role ~ '\n' }}\n"
        "    {%- if turn.role == 'assistant' and loop.index0 > ns.last %}\n"
        "        {{- '<think>\n' ~ thought ~ '\n</think>\n\n' }}\n"
        "    {%- endif %}\n"
        "    {{- text ~ '<|im_end|>\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\n' }}\n"
        "{%- endif %}\n"
    ),
)
MISTRAL = Family(
    name="Mistral",
    marks=("<s>", "</s>", "[INST]", "[/INST]"),
    bos="<s>",
    eos="</s>",
    # Puts the system message into the last turn, and omits it after the turn is answered.
    template=(
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set instructions = messages[0]['content'] %}\n"
        "    {%- set turns = messages[1:] %}\n"
        "{%- else %}\n"
        "    {%- set turns = messages %}\n"
        "{%- endif %}\n"
        "{{- bos_token }}\n"
        "{%- for turn in turns %}\n"
        "    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
        "        {{- raise_exception('user and assistant must take turns') }}\n"
        "    {%- endif %}\n"
        "    {%- if turn['role'] == 'user' and loop.last and instructions is defined %}\n"
        "        {{- '[INST] ' ~ instructions ~ '\n\n' ~ turn['content'] ~ '[/INST]' }}\n"
        "    {%- elif turn['role'] == 'user' %}\n"
        "        {{- '[INST] ' ~ turn['content'] ~ '[/INST]' }}\n"
        "    {%- else %}\n"
        "        {{- ' ' ~ turn['content'] ~ eos_token }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
    ),
)
SMOLLM = Family(
    name="SmolLM",
    marks=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos="<|im_start|>",
    eos="<|im_end|>",
    template=(
        "{% for turn in messages %}"
        "{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' ~ turn['role'] ~ '\n' ~ turn['content'] ~ '<|im_end|>' ~ '\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
)
GEMMA = Family(
    name="Gemma",
    marks=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    eos="<eos>",
    stops=("<end_of_turn>",),
    template=(
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('there is no role system') }}{% endif %}"
        "{% for turn in messages %}"
        "{{ '<start_of_turn>' ~ ('model' if turn['role'] == 'assistant' else turn['role']) }}"
        "{{ '\n' ~ (turn['content'] | trim) ~ '<end_of_turn>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
)
PHI = Family(
    name="Phi",
    marks=("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    eos="<|endoftext|>",
    stops=("<|end|>", "<|assistant|>"),
    # Ends a conversation without a generation prompt with a special token.
    template=(
        "{% for turn in messages %}"
        "{{ '<|' ~ turn['role'] ~ '|>\n' ~ turn['content'] ~ '<|end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
)
HERMES = Family(
    name="Hermes",
    marks=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    eos="<|im_end|>",
    template=(
        "{%- if tools %}\n"
        "    {{- '<|im_start|>system\n<tools>' }}\n"
        "    {%- for tool in tools %}{{- '\n' ~ (tool | tojson) }}{%- endfor %}\n"
        "    {{- '\n</tools><|im_end|>\n' }}\n"
        "{%- endif %}\n"
        "{%- for turn in messages %}\n"
        "    {%- if turn.role == 'tool' %}\n"
        "        {{- '<|im_start|>tool\n<tool_response>\n' ~ turn.content }}\n"
        "        {{- '\n</tool_response><|im_end|>\n' }}\n"
        "    {%- else %}\n"
        "        {{- '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content }}\n"
        "        {%- for call in turn.tool_calls or [] %}\n"
        "            {{- '<tool_call>\n' ~ (call.function | tojson) ~ '\n</tool_call>' }}\n"
        "        {%- endfor %}\n"
        "        {{- '<|im_end|>\n' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}\n"
    ),
)
MISTRAL_TOOLS = Family(
    name="Mistral-tools",
    marks=(
        *MISTRAL.marks,
        *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
        *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    bos="<s>",
    eos="</s>",
    # Describes the tools in the last turn of the user, and requires ids of nine characters.
    template=(
        "{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}\n"
        "{{- bos_token }}\n"
        "{%- for turn in messages %}\n"
        "    {%- if turn.role == 'user' %}\n"
        "        {%- if tools and turn == asked[-1] %}\n"
        "            {{- '[AVAILABLE_TOOLS] ' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}\n"
        "        {%- endif %}\n"
        "        {{- '[INST] ' ~ turn.content ~ '[/INST]' }}\n"
        "    {%- elif turn.tool_calls %}\n"
        "        {{- '[TOOL_CALLS] [' }}\n"
        "        {%- for call in turn.tool_calls %}\n"
        "            {%- if call.id is undefined or call.id | length != 9 %}\n"
        "                {{- raise_exception('the id of a call must have 9 characters') }}\n"
        "            {%- endif %}\n"
        "            {{- (call.function | tojson)[:-1] ~ ', \"id\": \"' ~ call.id ~ '\"}' }}\n"
        "            {{- '' if loop.last else ', ' }}\n"
        "        {%- endfor %}\n"
        "        {{- ']' ~ eos_token }}\n"
        "    {%- elif turn.role == 'tool' %}\n"
        "        {%- if turn.tool_call_id is undefined or turn.tool_call_id | length != 9 %}\n"
        "            {{- raise_exception('the id of a result must have 9 characters') }}\n"
        "        {%- endif %}\n"
        '        {{- \'[TOOL_RESULTS] {"content": \' ~ turn.content ~ \', "call_id": "\' }}\n'
        "        {{- turn.tool_call_id ~ '\"}[/TOOL_RESULTS]' }}\n"
        "    {%- else %}\n"
        "        {{- ' ' ~ turn.content ~ eos_token }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
    ),
)
