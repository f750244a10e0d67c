"""``spec.merge`` of a FineTuneJob: merge base model and adapter into a 16-bit model."""

from typing import Literal

from finetune_api.markers import ApiModel, Edit, field


class Merge(ApiModel):
    """Settings of the merged 16-bit model."""

    enabled: bool = field(
        "Merge the adapter and the base model into a 16-bit model. You can enable the merge "
        "after training; the job then merges without training again. With serving.mode: "
        "adapter, nothing is merged and this field is ignored.",
        True,
        edit=Edit.NOTHING,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        'Data type of the merged weights. "auto" selects bfloat16 if vLLM does not support the '
        "model family in float16, or if training recorded an activation of the tuned model above "
        "16384; otherwise float16.",
        "auto",
        edit=Edit.REMERGE,
    )
    base: Literal["dequantized", "original"] = field(
        'Base weights to which the adapter is added: "dequantized" (the weights rounded to 4 '
        'bits, as used in training), or "original" (the weights of the published base model).',
        "dequantized",
        edit=Edit.REMERGE,
    )
