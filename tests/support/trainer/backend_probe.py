"""Observe the arguments that the trainer passes to the libraries of a backend.

``ask`` runs one function in a process that is forked from the server of a backend, which has
imported the libraries, and returns the result. One process can handle many cases.
"""

import itertools
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.trainer.workshop import DEADLINE, Server

from families import row_attention
from finetune_api.v1alpha1.training.training import Training


def ask(server: Server, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of ``function`` in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        process = server.start(_answer, function, arguments, str(answer))
        process.join(DEADLINE)
        log = answer.with_suffix(".log").read_text()
        assert process.exitcode == 0, log
        return pickle.loads(answer.read_bytes())


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], path: str) -> None:
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    answer = function(*arguments)
    Path(path).write_bytes(pickle.dumps(answer))


class _Ready(BaseException):
    """Raised to pass the trainer out of the backend that created it."""


def trainer(base: Path, recipe: Training, *, lengths: Sequence[int], packed: bool) -> Any:
    """Return the trainer of the recipe's backend, with its model, before the first step.

    lengths: lengths of the training rows; ``packed``: all rows are in one sequence.
    """
    import numpy as np

    from finetune_trainer.attention import choice as attention_choice
    from finetune_trainer.data.token_store import Tokens
    from finetune_trainer.models import architecture, text_model
    from finetune_trainer.training import backends
    from finetune_trainer.training.backends import TrainRequest
    from finetune_trainer.training.loop import resume
    from finetune_trainer.training.oom_fallback import MemorySettings

    ids = np.random.default_rng(5).integers(3, 259, sum(lengths), dtype=np.int32)
    rows = np.cumsum([0, *lengths], dtype=np.int64)
    sequences = np.array([0, len(lengths)] if packed else range(len(rows)), dtype=np.int64)
    request = TrainRequest(
        base=base,
        source="a/b",
        commit="c",
        recipe=recipe,
        packed=packed,
        start=None,
        attention=attention_choice.choose(text_model.described(base), architecture.layers(base)),
        train=Tokens(input_ids=ids, labels=ids, rows=rows, sequences=sequences),
        held_out=None,
        max_steps=10,
        memory=MemorySettings(micro_batch=recipe.advanced.micro_batch_size or 1),
        scratch=base.parent / "scratch",
        checkpoint=None,
        publish_checkpoint=lambda scratch, step: None,
        checkpoint_of=lambda step: Path(),
    )

    def run(made: Any, *rest: Any) -> None:
        raise _Ready(made)

    usual = resume.run
    resume.run = run  # type: ignore[assignment]
    try:
        backends.load(recipe).train(request, None, Path())  # type: ignore[arg-type]
    except _Ready as ready:
        return ready.args[0]
    finally:
        resume.run = usual
    raise AssertionError("the backend did not run its trainer")


def arrived(base: Path, recipes: dict[str, Training]) -> dict[str, dict[str, Any] | str]:
    """Return the arguments that the libraries receive for each recipe, or the error message."""
    from bitsandbytes.optim import GlobalOptimManager

    from finetune_trainer.errors import InvalidSpec

    found: dict[str, dict[str, Any] | str] = {}
    for name, recipe in recipes.items():
        # The optimizer identifies parameters with 32-bit states by their number.
        GlobalOptimManager.get_instance().initialize()
        try:
            made = trainer(base, recipe, lengths=[30, 20, 40, 9] * 6, packed=False)
            found[name] = _facts(made)
        except InvalidSpec as error:
            found[name] = str(error)
    return found


def moved(base: Path) -> tuple[set[str], list[str]]:
    """Return the tensors that Unsloth moves from the GPU with the embedding, and their device.

    Unsloth does this only on a GPU; this function calls the same code.
    """
    import transformers
    from unsloth.models._utils import offload_input_embeddings

    from finetune_trainer.training.backends.unsloth import _offload_folder

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    before = model.get_input_embeddings().weight.detach().clone()
    with _offload_folder(model) as folder:
        offload_input_embeddings(model, folder)
        places = [str(path.relative_to(folder)) for path in Path(folder).rglob("*.pt")]
    assert not Path(folder).exists()
    assert model.config._name_or_path == str(base)
    assert bool((model.get_input_embeddings().weight == before).all()), "no longer mapped"
    return {path.name for path in base.iterdir()}, places


def _facts(made: Any) -> dict[str, Any]:
    import torch
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora import LoraLayer

    from finetune_trainer.devices.device import detect
    from finetune_trainer.training.backends import library_arguments

    model = made.model
    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    quantized = [each for each in model.modules() if isinstance(each, Linear4bit)]
    arguments = library_arguments.sft_arguments(made.request, detect())
    made.create_optimizer_and_scheduler(10)
    rates = []
    for _ in range(10):
        rates.append(made.lr_scheduler.get_last_lr()[0])
        made.lr_scheduler.step()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    for each in trained.values():
        each.grad = torch.ones_like(each)
    made.optimizer.step()
    state = made.optimizer.optimizer.state if hasattr(made.optimizer, "optimizer") else None
    state = made.optimizer.state if state is None else state
    batch = next(iter(made.get_train_dataloader()))
    return {
        # The backends compute the same loss with different kernels.
        "arguments": {
            name: _plain(getattr(made.args, name)) for name in arguments if name != "loss_type"
        },
        "adapted": sorted(
            name.removesuffix(".lora_A.default.weight")
            for name in trained
            if name.endswith("lora_A.default.weight")
        ),
        "trained": {name: (tuple(each.shape), str(each.dtype)) for name, each in trained.items()},
        "scaling": {each.scaling["default"] for each in layers},
        "dropout": {getattr(each.lora_dropout["default"], "p", 0.0) for each in layers},
        "first weights": float(sum(each.double().abs().sum() for each in trained.values())),
        "quantized": {
            (each.weight.quant_type, each.weight.quant_state.nested, str(each.compute_dtype))
            for each in quantized
        },
        "quantized layers": len(quantized),
        "attention": model.config._attn_implementation,
        "noise": getattr(model.get_input_embeddings(), "neftune_noise_alpha", None),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "optimizer": type(made.optimizer).__name__,
        "groups": [
            {k: str(v) for k, v in group.items() if k != "params"}
            for group in made.optimizer.param_groups
        ],
        "state": sorted(
            {
                f"{name} {value.dtype}"
                for each in state.values()
                for name, value in each.items()
                if torch.is_tensor(value)
            }
        ),
        "held": {
            "weights": sum(each.nbytes for each in trained.values()),
            "gradients": sum(each.grad.nbytes for each in trained.values()),
            # All 8-bit states share one code map.
            "states": sum(
                value.nbytes
                for each in state.values()
                for name, value in each.items()
                if torch.is_tensor(value) and not name.startswith(("qmap", "step"))
            ),
        },
        "rates": rates,
        "batch": {name: tuple(value.shape) for name, value in batch.items()},
    }


def _plain(value: Any) -> str:
    """Return an argument as text; an enum member gives its value."""
    return str(getattr(value, "value", value))


def noise(base: Path, recipe: Training) -> tuple[float, float]:
    """Return the largest noise on the embeddings of a row, in training and in an evaluation."""
    made = trainer(base, recipe, lengths=[100], packed=False)
    embedding = made.model.get_input_embeddings()
    ids = next(iter(made.get_train_dataloader()))["input_ids"]
    without = embedding.weight[ids].float()
    found = []
    for training in (True, False):
        made.model.train(training)
        found.append(float((embedding(ids).float() - without).abs().max()))
    return found[0], found[1]


def recomputed(base: Path, recipe: Training) -> bool:
    """Report whether the backward pass of a training step recomputes the layers."""
    made = trainer(base, recipe, lengths=[20, 20, 20], packed=False)
    if made.args.gradient_checkpointing:
        # The train() method of transformers starts with this call.
        kwargs = made.args.gradient_checkpointing_kwargs
        made.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    runs = []
    layer = made.model.get_base_model().model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: runs.append(1))
    made.current_gradient_accumulation_steps = 1
    made.training_step(made.model, next(iter(made.get_train_dataloader())), None)
    return len(runs) == 2


def packed_against_separate(
    bases: dict[str, Path], recipe: Training, flash: bool
) -> dict[str, tuple[float, float]]:
    """Return the differences between the logits of packed rows and of separate rows.

    By base: the largest difference with the batch of the trainer, and with a batch that does not
    mark where a row starts (which shows that the comparison detects a difference). flash: with the
    trainer's use of FlashAttention-2, which a stand-in computes.
    """
    import torch

    from finetune_trainer.attention import kernels

    if flash:
        row_attention.install()
        kernels._runs = lambda *_: True

    found = {}
    for name, base in bases.items():
        made = trainer(base, recipe, lengths=[30, 21, 40], packed=True)
        model = made.model
        for parameter, value in model.named_parameters():
            if "lora_B" in parameter:
                torch.nn.init.normal_(value, std=0.1)
        batch = dict(next(iter(made.get_train_dataloader())))
        batch.pop("labels")
        positions = batch["position_ids"][0]
        starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(positions)]
        assert len(starts) == 4, "the batch does not hold the three rows in one sequence"
        ids = batch["input_ids"]
        with torch.no_grad():
            packed = model(**batch).logits[0]
            alone = [
                model(input_ids=ids[:, a:b], use_cache=False).logits[0]
                for a, b in itertools.pairwise(starts)
            ]
            mixed = model(input_ids=ids, use_cache=False).logits[0]
        separate = torch.cat(alone)
        found[name] = (
            float((packed - separate).abs().max()),
            float((mixed - separate).abs().max()),
        )
    return found


def first_steps(
    bases: dict[str, Path], recipes: dict[bool, Training]
) -> dict[tuple[str, bool], dict[str, Any] | str]:
    """Return the first micro-batch's loss, gradients and tokens, or the error message.

    By base, and by whether its rows are packed; ``recipes`` are by packing, too.
    """
    import torch

    from finetune_trainer.errors import InvalidSpec

    found: dict[tuple[str, bool], dict[str, Any] | str] = {}
    for name, base in bases.items():
        for packed, recipe in recipes.items():
            try:
                made = trainer(base, recipe, lengths=[30, 21, 40, 9], packed=packed)
            except InvalidSpec as error:
                found[name, packed] = str(error)
                continue
            torch.manual_seed(3)
            for parameter, value in made.model.named_parameters():
                if "lora_B" in parameter:
                    torch.nn.init.normal_(value, std=0.05)
            made.current_gradient_accumulation_steps = 1
            batch = dict(next(iter(made.get_train_dataloader())))
            loss = float(made.training_step(made.model, batch))
            trained = [each for each in made.model.parameters() if each.requires_grad]
            found[name, packed] = {
                "trainer": [each.__name__ for each in type(made).__mro__],
                "loss": loss,
                "gradients": torch.cat([each.grad.flatten() for each in trained]).numpy(),
                "tokens": made.take_token_count(),
            }
    return found


def steps_with_liger(
    bases: dict[str, Path], recipes: dict[bool, Training]
) -> tuple[dict[tuple[str, bool], dict[str, Any] | str], set[int]]:
    """Return the first steps with Liger's kernel, and the tokens per chunk of its loss."""
    from liger_kernel.ops import fused_linear_cross_entropy as liger

    usual, chunks = liger.liger_cross_entropy_kernel, set()

    class Recorded:
        def __getitem__(self, grid: tuple[int]) -> Any:
            chunks.add(grid[0])
            return usual[grid]

    liger.liger_cross_entropy_kernel = Recorded()
    return first_steps(bases, recipes), chunks


def liger_layers(bases: dict[str, Path], recipe: Training) -> dict[str, tuple[float, float]]:
    """Return the differences of logits and gradients with Liger's layers, as shares of their norms.

    By base; in float32.
    """
    import numpy
    import triton.language as tl
    from liger_kernel.ops import geglu, rms_norm
    from triton.runtime import interpreter

    usual = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        """Return a number with a fraction as the interpreter converts an integer."""
        if not isinstance(argument, float):
            return usual(argument)
        handle = interpreter.TensorHandle(numpy.array([argument], dtype=numpy.float32), tl.float32)
        return tl.tensor(handle, tl.float32)

    interpreter._implicit_cvt = converted
    # The interpreter has no functions of CUDA's libdevice.
    rms_norm.rsqrt = lambda value: tl.rsqrt(value)
    geglu.tanh = lambda value: 1 - 2 / (tl.exp(2 * value) + 1)
    found = {}
    for name, base in bases.items():
        expected = _logits_and_gradients(base, None)
        pairs = zip(_logits_and_gradients(base, recipe), expected, strict=True)
        logits, gradients = (float((one - other).norm() / other.norm()) for one, other in pairs)
        found[name] = logits, gradients
    return found


def _logits_and_gradients(base: Path, recipe: Training | None) -> tuple[Any, Any]:
    """Return the logits of a row and the gradients of an adapter. recipe: with Liger's layers."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.compatibility import liger

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa"
    )
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
    )
    model = peft.get_peft_model(model, config)
    module = sys.modules[type(model.get_base_model()).__module__]
    usual = vars(module)["apply_rotary_pos_emb"]
    try:
        if recipe is not None:
            liger.apply(recipe, model)
            assert vars(module)["apply_rotary_pos_emb"] is not usual
        ids = torch.arange(1, 33)[None]
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
    finally:
        # Liger replaces this function for all models of the process.
        vars(module)["apply_rotary_pos_emb"] = usual
    trained = [each for each in model.parameters() if each.requires_grad]
    gradients = torch.cat([each.grad.float().flatten() for each in trained])
    return output.logits.detach().float(), gradients


def reference(work: Path) -> str:
    """Return the reference of a volume, scored in this process."""
    from finetune_trainer.evaluation import scoring
    from finetune_trainer.volume_layout import Layout

    return scoring.score(Layout(work=work)).model_dump_json(by_alias=True)


def unsloth_kernel(module: str, chosen: str) -> str:
    """Return the attention kernel that Unsloth selects for a model with an attention module."""
    import sys
    from types import SimpleNamespace

    import torch

    from finetune_trainer.training.backends.unsloth import attention

    def forward(self: Any) -> None:
        """Attend."""

    forward.__module__ = module
    layer = type("LlamaAttention", (torch.nn.Module,), {"forward": forward})
    model = torch.nn.Sequential(layer())
    model.config = SimpleNamespace(_attn_implementation="eager")
    choice = SimpleNamespace(select_attention_backend=lambda packed: chosen)
    sys.modules["unsloth.utils.attention_dispatch"] = choice  # type: ignore[assignment]
    return attention(SimpleNamespace(packed=True), model)  # type: ignore[arg-type]


def kernel_refusal(wanted: str, kernel: str) -> str:
    """Return the error message for a kernel and a factory, or an empty text."""
    from types import SimpleNamespace

    from finetune_trainer.errors import InvalidSpec
    from finetune_trainer.training.backends import sft

    advanced = SimpleNamespace(attn_implementation=wanted, backend="unsloth")
    request: Any = SimpleNamespace(recipe=SimpleNamespace(advanced=advanced))
    factory = sft.ModelFactory(
        choose=lambda *_: wanted,
        load=lambda *_: None,
        adapt=lambda *_: None,
        attention=lambda *_: kernel,
    )
    try:
        sft._kernel(request, factory, None)
    except InvalidSpec as refused:
        return str(refused)
    return ""
