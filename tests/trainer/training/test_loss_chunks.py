"""TRL computes the loss in chunks: the host does not wait for the GPU between two of them.

On a CPU, no chunk has more rows than the loss needs.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl.trainer import sft_trainer
from trl.trainer.sft_trainer import _CHUNKED_LM_HEAD_CHUNK_SIZE, _chunked_cross_entropy_loss

from finetune_trainer.devices.capabilities import Device
from finetune_trainer.training.backends import loss_chunks

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


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows of the chunks whose logits are computed."""
    found: list[int] = []
    usual = sft_trainer._chunk

    def counting(hidden: Any, *others: Any) -> Any:
        found.append(len(hidden))
        return usual(hidden, *others)

    monkeypatch.setattr(sft_trainer, "_chunk", counting)
    # Also undoes the replacement.
    monkeypatch.setattr(sft_trainer, "_chunked_cross_entropy_loss", _chunked_cross_entropy_loss)
    loss_chunks._replace.cache_clear()
    return found


def loss_and_gradient(labels: Any, **named: Any) -> tuple[float, Any]:
    torch.manual_seed(1)
    hidden = torch.randn(1, 41, 16, requires_grad=True)
    loss, *_ = sft_trainer._chunked_cross_entropy_loss(
        hidden, torch.randn(50, 16), _CHUNKED_LM_HEAD_CHUNK_SIZE, **named, **labels
    )
    loss.backward()
    return float(loss.detach()), hidden.grad


@pytest.mark.parametrize(("present", "rows"), [(5, 5), (40, 40), (0, 1)])
@pytest.mark.parametrize("name", ["labels", "shift_labels"])
def test_on_a_cpu_only_tokens_that_contribute_have_logits(
    chunks: list[int], present: int, rows: int, name: str
) -> None:
    values = torch.full((1, 41), loss_chunks.IGNORED)
    values[0, 41 - present :] = torch.arange(present)
    labels = {name: values}
    number = {"num_items_in_batch": torch.tensor(max(present, 1))}
    loss_chunks.fit(Device(name="NVIDIA A10G", cuda=True, capability=(8, 6)))
    loss, gradient = loss_and_gradient(labels, **number)
    whole = chunks.copy()
    chunks.clear()
    loss_chunks.fit(Device(name="cpu", cuda=False))
    fitting, same = loss_and_gradient(labels, **number)
    # Each chunk is computed again for its gradient.
    assert (set(chunks), set(whole)) == ({rows}, {41 - (name == "labels")})
    assert fitting == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(same, gradient, rtol=1e-5, atol=1e-8)
