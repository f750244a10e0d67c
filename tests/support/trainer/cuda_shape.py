"""Unsloth as on a GPU, in a process without a GPU.

Without a GPU, ``import unsloth`` replaces nothing in the libraries. With ``UNSLOTH_ALLOW_CPU`` it
takes the path for CUDA: Unsloth compiles its own trainer, packs rows with its own collator and
replaces the loss. Its Triton kernels cannot run, so the backend ``trl`` loads and adapts the model.

Import this module before ``finetune_trainer.training.backends.unsloth``.
"""

import os
from dataclasses import replace

os.environ["UNSLOTH_ALLOW_CPU"] = "1"

import unsloth.trainer
from unsloth.models import rl

# With the variable, Unsloth omits these calls of its path for CUDA.
rl.patch_trl_disable_gradient_checkpointing()
rl.patch_trl_fused_lm_head_devices()
rl.patch_trl_fused_lm_head_kernel()
rl._patch_trl_rl_trainers("sft_trainer")
unsloth.trainer._patch_trl_trainer()


def _use_models_of_transformers() -> None:
    from finetune_trainer.training.backends import trl
    from finetune_trainer.training.backends import unsloth as backend

    backend.FACTORY = replace(backend.FACTORY, load=trl._load, adapt=trl._adapt)


_use_models_of_transformers()
