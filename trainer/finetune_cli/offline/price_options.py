"""Options that set the price of a GPU."""

from pathlib import Path
from typing import Annotated

import typer

from finetune_api.v1alpha1.profile import PROFILE_KIND

PriceOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="AMOUNT CURRENCY",
        help="price of one GPU for one hour, such as 0.80 EUR, to estimate the cost of training",
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"YAML file with the {PROFILE_KIND} of the job, whose defaults, GPU model and price "
        "are used; default: the file of the job",
    ),
]
