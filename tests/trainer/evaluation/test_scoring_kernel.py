"""The reference is computed with a kernel that computes the base correctly."""

from pathlib import Path

import pytest

from families import tiny
from finetune_trainer.attention import choice
from finetune_trainer.attention.kernels import Support
from finetune_trainer.evaluation import scoring
from finetune_trainer.volume_layout import Layout


@pytest.mark.parametrize(
    ("padded", "kernel"), [(("varlen", "sdpa", "eager"), "sdpa"), (("eager",), "eager")]
)
def test_eager_is_used_only_where_sdpa_is_wrong(
    tmp_path: Path, padded: tuple[str, ...], kernel: str
) -> None:
    layout = Layout(work=tmp_path)
    layout.dataset.mkdir()
    choice.save(layout.dataset, Support(padded=padded))
    tiny.config("gpt_oss").save_pretrained(layout.base)
    assert scoring._kernel(layout) == kernel
