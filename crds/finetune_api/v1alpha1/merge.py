"""``spec.merge`` of a FineTuneJob: the 16-bit model made of base and adapter."""

from typing import Literal

from finetune_api.markers import ApiModel, Edit, field


class Merge(ApiModel):
    """The 16-bit model made of base and adapter."""

    enabled: bool = field(
        "Merge the adapter into a 16-bit model. Switching it on for a trained job merges without "
        "training again. With serving.mode adapter nothing is merged.",
        True,
        edit=Edit.NOTHING,
    )
    dtype: Literal["auto", "float16", "bfloat16"] = field(
        "Number format of the merged weights; auto is float16, and bfloat16 for the model "
        "families that vLLM refuses in float16.",
        "auto",
        edit=Edit.REMERGE,
    )
    base: Literal["dequantized", "original"] = field(
        "What the adapter is added to: dequantized, the 4-bit rounded weights that it was trained "
        "against and evaluated on, or original, the base as published.",
        "dequantized",
        edit=Edit.REMERGE,
    )
