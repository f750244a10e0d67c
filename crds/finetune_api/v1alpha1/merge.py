"""``spec.merge`` of a FineTuneJob: merge base model and adapter into a 16-bit model."""

from typing import Literal

from finetune_api.markers import ApiModel, Edit, field


class Merge(ApiModel):
    """Settings of the merged 16-bit model."""

    enabled: bool = field(
        "Merge the adapter and the base model into a 16-bit model. If you enable the merge "
        "after training, the job merges the model without training again. If serving.mode is "
        "adapter, the operator ignores this field and does not merge the model.",
        True,
        edit=Edit.NOTHING,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        'Data type of the merged weights. "auto" selects bfloat16 in two cases: vLLM does not '
        "support the model family in float16, or training recorded an activation above 16384. "
        "Otherwise, it selects float16.",
        "auto",
        edit=Edit.REMERGE,
    )
    base: Literal["dequantized", "original"] = field(
        'Base weights to which the merge adds the adapter. "dequantized": the weights rounded to 4 '
        'bits, as used in training. "original": the weights of the published base model.',
        "dequantized",
        edit=Edit.REMERGE,
    )
