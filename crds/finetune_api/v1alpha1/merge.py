"""``spec.merge`` of a FineTuneJob: merge base model and adapter into a 16-bit model."""

from typing import Literal

from finetune_api.markers import ApiModel, Edit, field


class Merge(ApiModel):
    """Settings of the merged 16-bit model."""

    enabled: bool = field(
        "Merge the adapter into a 16-bit model. Enabling it for a trained job merges without "
        "retraining. Ignored with serving.mode: adapter, which needs no merged model.",
        True,
        edit=Edit.NOTHING,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        "Data type of the merged weights. auto selects float16, or bfloat16 for model families "
        "that vLLM does not support in float16.",
        "auto",
        edit=Edit.REMERGE,
    )
    base: Literal["dequantized", "original"] = field(
        "Weights that the adapter is added to. dequantized uses the 4-bit rounded weights that the "
        "adapter was trained on and evaluated with; original uses the published base model.",
        "dequantized",
        edit=Edit.REMERGE,
    )
