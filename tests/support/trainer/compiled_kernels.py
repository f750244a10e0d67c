"""``compiled_kernels.py WHAT DTYPE ARCHITECTURE...``: compile Triton kernels without a GPU.

WHAT is a list of values of model_type, separated by commas, whose kernels of Liger are launched, or
``swiglu`` (one kernel of Liger) or ``unsloth``. The kernels are launched on tensors without data in
the shapes of an 8B model. Each launch compiles machine code for the architecture (``80`` is sm_80),
with the constants, warps and alignment that a GPU would get, and does not run it. Prints the bytes
of the machine code, or an error, by architecture and kernel.

A process of its own, because Triton reads TRITON_INTERPRET when kernels are defined.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

if __name__ == "__main__":
    # The interpreter adds this folder, whose modules have the names of packages.
    sys.path[0:1] = [
        str(Path(__file__).resolve().parents[3] / name) for name in ("crds", "trainer")
    ]

import torch

Found = dict[str, int | str]
WIDTH, MLP, HEADS, GROUPS, HEAD = 4096, 14336, 32, 8, 128
SHAPE = {
    "vocab_size": 128256,
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": HEAD,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
}
TOKENS = 4096
GENERATIONS = {75: "volta_turing", 80: "ampere_ada", 86: "ampere_ada", 89: "ampere_ada"} | {
    90: "hopper",
    100: "blackwell",
    120: "blackwell_consumer",
}
"""Liger's names of the architectures, by which it chooses kernels and numbers of warps."""


def main(what: str, dtype: str, *architectures: str) -> dict[str, Found]:
    """Return the bytes of the machine code, or the error, of each kernel."""
    launches: dict[str, Callable[[torch.dtype], None]] = {"swiglu": swiglu, "unsloth": unsloth}
    if what == "unsloth":
        os.environ["UNSLOTH_ALLOW_CPU"] = "1"
        import unsloth as loaded  # noqa: F401
    found: dict[str, Found] = {}
    for architecture in architectures:
        found[architecture] = {}
        for name in what.split(","):
            kernels: Found = {}
            with compiling(int(architecture), kernels):
                launches.get(name, partial(liger, name))(getattr(torch, dtype))
            found[architecture] |= {f"{name} {kernel}": size for kernel, size in kernels.items()}
    return found


def swiglu(dtype: torch.dtype) -> None:
    """Launch the forward kernel of Liger's SwiGLU."""
    from liger_kernel.ops.swiglu import swiglu_forward

    swiglu_forward(*(_empty(TOKENS, MLP, dtype=dtype) for _ in range(2)))


def liger(family: str, dtype: torch.dtype) -> None:
    """Do a forward and a backward pass of a model with adapters and all kernels of Liger."""
    import peft
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.liger import apply_liger_kernel

    from finetune_trainer.compatibility.liger import kernels

    # Small gradients are lost in float16, so the loss is not allowed there.
    fused = dtype is not torch.float16
    advanced = SimpleNamespace(liger_layers=True, liger_fused_linear_cross_entropy=fused)
    selected = kernels(SimpleNamespace(advanced=advanced))  # type: ignore[arg-type]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family, **SHAPE), dtype=dtype, attn_implementation="sdpa"
        )
        apply_liger_kernel(model, selected)
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
        )
        ids = torch.zeros((1, TOKENS), dtype=torch.long)
        result = wrapped(input_ids=ids, labels=ids if fused else None)
        (result.loss if fused else result.logits.float().sum()).backward()


def unsloth(dtype: torch.dtype) -> None:
    """Launch the kernels of a layer with adapters: norms, rotary embedding and gated MLPs."""
    from unsloth.kernels import geglu, rms_layernorm, rope_embedding, swiglu

    norm = torch.nn.Module()
    norm.weight = torch.nn.Parameter(_empty(WIDTH, dtype=dtype), requires_grad=False)
    norm.variance_epsilon = norm.eps = 1e-5
    for gemma in (False, True):
        hidden = _empty(1, TOKENS, WIDTH, dtype=dtype).requires_grad_()
        rms_layernorm.fast_rms_layernorm(norm, hidden, gemma=gemma).sum().backward()
    angles = [_empty(TOKENS, HEAD, dtype=dtype) for _ in range(2)]
    for places in (None, _empty(1, TOKENS, dtype=torch.int32)):
        query, key = (
            _empty(1, TOKENS, heads, HEAD, dtype=dtype).transpose(1, 2).requires_grad_()
            for heads in (HEADS, GROUPS)
        )
        rotated = rope_embedding.fast_rope_embedding(query, key, *angles, places)
        torch.cat([each.flatten() for each in rotated]).sum().backward()
    gate, up, upstream = (_empty(1, TOKENS, MLP, dtype=dtype) for _ in range(3))
    for forward, backward in (
        (swiglu.swiglu_fg_kernel, swiglu.swiglu_DWf_DW_dfg_kernel),
        (geglu.geglu_exact_forward_kernel, geglu.geglu_exact_backward_kernel),
        (geglu.geglu_approx_forward_kernel, geglu.geglu_approx_backward_kernel),
    ):
        forward(gate, up)
        backward(*(each.view(TOKENS, MLP) for each in (upstream, gate, up)))


@contextmanager
def compiling(architecture: int, kernels: Found) -> Iterator[None]:
    """Compile the kernels that are launched, as on a GPU of an architecture."""
    import triton
    from liger_kernel import utils
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        try:
            kernel = run(self, *args, grid=grid, warmup=True, **options)
            kernels[self.__name__] = len(kernel.asm["cubin"])
        except Exception as error:
            kernels[self.__name__] = f"{type(error).__name__}: {error}"

    # Triton keeps compiled kernels by the number of the device: it is that of the architecture.
    driver = SimpleNamespace(
        get_current_device=lambda: architecture,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", architecture, 32),
        get_active_torch_device=lambda: torch.device("meta"),
    )
    utils.infer_device_arch.cache_clear()
    with ExitStack() as replaced:
        for owner, name, value in (
            (JITFunction, "run", compiled),
            # Tensors without data have no values: every token counts, and the loss is scaled.
            (torch.Tensor, "item", lambda self: TOKENS),
            (torch, "equal", lambda one, other: False),
            (utils, "infer_device", lambda: "cuda"),
            (utils, "_infer_nvidia_arch", lambda device: GENERATIONS[architecture]),
            *_choices_of_unsloth(architecture),
        ):
            replaced.enter_context(mock.patch.object(owner, name, value))
        triton.runtime.driver.set_active(driver)
        yield


def _choices_of_unsloth(architecture: int) -> list[tuple[Any, str, Any]]:
    """Return replacements of functions that choose numbers of warps by the GPU."""
    if "unsloth" not in sys.modules:
        return []
    from unsloth.kernels import rms_layernorm, rope_embedding

    def settings(width: int, device: Any = None, dw: bool = False) -> Any:
        size, usual = rms_layernorm.calculate_settings(width)
        table = rms_layernorm._DW_NUM_WARPS if dw else rms_layernorm._NUM_WARPS
        return size, table.get((divmod(architecture, 10), width), usual)

    return [
        (rms_layernorm, "_settings", settings),
        (rope_embedding, "_rope_num_warps", lambda device: 8 if architecture < 80 else 4),
        (rope_embedding, "_eviction_hints_ok", lambda device: True),
    ]


def _empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


if __name__ == "__main__":
    answer = main(*sys.argv[1:])
    print(json.dumps(answer))
