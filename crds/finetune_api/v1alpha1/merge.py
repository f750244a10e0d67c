"""``spec.merge`` of a FineTuneJob: merge base model and adapter into a 16-bit model."""

from typing import Literal

from finetune_api.markers import ApiModel, Edit, field


class Merge(ApiModel):
    """Settings of the merged 16-bit model."""

    enabled: bool = field(
        "Merge the adapter into a 16-bit model. You can enable this after training; the job then "
        "merges without retraining. Ignored with serving.mode: adapter, which needs no merged "
        "model.",
        True,
        edit=Edit.NOTHING,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        'Data type of the merged weights. With "auto", the type is float16, or bfloat16 for '
        "model families that vLLM does not support in float16.",
        "auto",
        edit=Edit.REMERGE,
    )
    base: Literal["dequantized", "original"] = field(
        'Base weights that the adapter is added to: "dequantized" (the 4-bit rounded weights '
        'with which the adapter was trained), or "original" (the weights of the published base '
        "model).",
        "dequantized",
        edit=Edit.REMERGE,
    )
