"""Order of the settings that are tried after CUDA ran out of memory."""

from finetune_trainer.training.oom_fallback import MemorySettings, OomFallback


def tried(fallback: OomFallback, memory: MemorySettings) -> list[str]:
    found = []
    following = fallback.next_smaller(memory)
    while following is not None:
        found.append(str(following))
        following = fallback.next_smaller(following)
    return found


def test_gradient_checkpointing_is_enabled_before_the_micro_batch_is_halved() -> None:
    fallback = OomFallback(
        effective_batch=8, micro_batch_fixed=False, can_offload=True, can_recompute=True
    )
    assert tried(fallback, MemorySettings(micro_batch=2)) == [
        "micro-batch size 2, gradient checkpointing",
        "micro-batch size 1, gradient checkpointing",
        "micro-batch size 1, gradient checkpointing, activations in host memory",
    ]


def test_a_recipe_that_says_so_keeps_it_off() -> None:
    fallback = OomFallback(effective_batch=8, micro_batch_fixed=False, can_offload=False)
    assert tried(fallback, MemorySettings(micro_batch=2)) == ["micro-batch size 1"]


def test_the_advice_names_the_field_that_the_user_can_lower() -> None:
    fixed = OomFallback(effective_batch=8, micro_batch_fixed=True, can_offload=False)
    free = OomFallback(effective_batch=8, micro_batch_fixed=False, can_offload=False)
    one, four = MemorySettings(micro_batch=1), MemorySettings(micro_batch=4)
    assert fixed.advice(four) == "lower training.advanced.microBatchSize, or omit it"
    otherwise = "use a card with more memory, or lower training.sequenceLength"
    assert [fixed.advice(one), free.advice(one), free.advice(four)] == [otherwise] * 3
