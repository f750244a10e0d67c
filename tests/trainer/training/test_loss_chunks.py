"""TRL computes the loss in chunks, and the host does not wait for the GPU between two of them."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl.trainer.sft_trainer import _CHUNKED_LM_HEAD_CHUNK_SIZE, _chunked_cross_entropy_loss

READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")
"""Parts of the names of operations that bring a value or a size from the GPU to the host."""


class Reads(TorchDispatchMode):  # type: ignore[misc]
    """Counts these operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Any,
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        self.count += any(each in str(operation) for each in READS)
        return operation(*arguments, **(named or {}))


@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_loss_reads_one_number_however_many_chunks_it_has(chunks: int) -> None:
    tokens = chunks * _CHUNKED_LM_HEAD_CHUNK_SIZE
    hidden = torch.randn(1, tokens + 1, 16, requires_grad=True)
    labels = torch.randint(0, 50, (1, tokens + 1))
    with Reads() as reads:
        loss, *_ = _chunked_cross_entropy_loss(
            hidden,
            torch.randn(50, 16),
            _CHUNKED_LM_HEAD_CHUNK_SIZE,
            labels=labels,
            num_items_in_batch=torch.tensor(tokens),
        )
        loss.backward()
    assert reads.count == 1
