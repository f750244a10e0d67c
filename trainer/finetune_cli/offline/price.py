"""The price of a GPU, from an option or from the FineTuneProfile in a file."""

from pathlib import Path

from pydantic import ValidationError

from finetune_api.contracts.cost import cost, expected, money
from finetune_api.v1alpha1.profile import PROFILE_KIND, Price
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_cli.errors import WrongCall
from finetune_cli.offline import job_file
from finetune_trainer.errors import InvalidSpec


def of(
    written: tuple[str, str] | None, profile: Path | None, spec: FineTuneJobSpec
) -> Price | None:
    """Return the price in an option or in the file of a profile, None without one.

    Raises WrongCall or InvalidSpec.
    """
    if written is not None and profile is not None:
        raise WrongCall("--price and --profile exclude each other: leave out one of them")
    if written is not None:
        amount, currency = written
        return _price({"perGpuHour": amount, "currency": currency}, at="--price")
    if profile is None:
        return None
    profiles = [
        document for document in job_file.load(profile) if document.get("kind") == PROFILE_KIND
    ]
    if spec.profile is not None:
        profiles = [document for document in profiles if _name(document) == spec.profile]
    if len(profiles) != 1:
        named = "" if spec.profile is None else f" with the name {spec.profile} (spec.profile)"
        raise InvalidSpec(
            f"{profile} contains {len(profiles)} {PROFILE_KIND}s{named}: it must contain "
            "exactly one"
        )
    price = (profiles[0].get("spec") or {}).get("price")
    if price is None:
        raise InvalidSpec(
            f"{profile}: {PROFILE_KIND} {_name(profiles[0])} has no spec.price: set it, or "
            "use --price"
        )
    return _price(price, at=f"{profile}: spec.price")


def line(price: Price, seconds: float, limit: int | None) -> str:
    """Return the expected cost of training. limit: GPU-seconds at which training is stopped."""
    low, high = (
        money(cost(price.per_gpu_hour, bound)) for bound in expected(round(seconds), limit)
    )
    return f"Training costs {low} to {high} {price.currency}, at {price.per_gpu_hour} per GPU-hour"


def _name(profile: dict[str, object]) -> object:
    metadata = profile.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _price(value: object, *, at: str) -> Price:
    try:
        return Price.model_validate(value, by_name=False)
    except ValidationError as error:
        finding = error.errors()[0]
        place = ".".join([at, *(str(step) for step in finding["loc"])])
        text = finding["msg"].removeprefix("Value error, ")
        raise InvalidSpec(f"{place}: {text} (it is {finding['input']!r})") from None
