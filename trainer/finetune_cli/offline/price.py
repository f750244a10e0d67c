"""The price of a GPU, and the cost of a training."""

from pydantic import ValidationError

from finetune_api.contracts.cost import cost, expected, money
from finetune_api.v1alpha1.profile import Price
from finetune_trainer.errors import InvalidSpec


def of(written: tuple[str, str] | None) -> Price | None:
    """Return the price in an option, None without one. Raises InvalidSpec."""
    if written is None:
        return None
    amount, currency = written
    try:
        return Price(per_gpu_hour=amount, currency=currency)
    except ValidationError as error:
        finding = error.errors()[0]
        place = ".".join(["--price", *(str(step) for step in finding["loc"])])
        text = finding["msg"].removeprefix("Value error, ")
        raise InvalidSpec(f"{place}: {text} (it is {finding['input']!r})") from None


def line(price: Price, seconds: float, limit: int | None) -> str:
    """Return the expected cost of training. limit: GPU-seconds at which training is stopped."""
    low, high = (
        money(cost(price.per_gpu_hour, bound)) for bound in expected(round(seconds), limit)
    )
    return f"Training costs {low} to {high} {price.currency}, at {price.per_gpu_hour} per GPU-hour"
