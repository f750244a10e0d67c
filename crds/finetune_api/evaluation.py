"""``spec.evaluation`` of a FineTuneJob: the gate between a trained model and the endpoint."""

from typing import Literal

from finetune_api.fields import ApiModel, Edit, field


class Evaluation(ApiModel):
    """What becomes of a model that held-out rows show to be worse than its base."""

    on_regression: Literal["Stall", "Serve"] = field(
        "What to do with a model whose held-out loss is above its base model's by more than two "
        "standard errors, on at least 30 rows: Stall does not serve it, and what served before "
        "goes on; Serve serves it all the same. With fewer held-out rows nothing is decided.",
        "Stall",
        edit=Edit.NOTHING,
    )
