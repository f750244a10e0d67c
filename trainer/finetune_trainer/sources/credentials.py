"""Reading credentials from the environment."""

import os
from collections.abc import Mapping

from finetune_api.safety import credentials
from finetune_trainer.errors import AccessDenied


def read(
    variable: str, *, what: str, field: str, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return the credential in a variable, None if the variable is not set.

    what, field: the credential and the spec field that names its Secret, for the error. Raise
    AccessDenied, without the value, if the credential cannot be used.
    """
    value = environment.get(variable)
    if value is None:
        return None
    try:
        return credentials.checked(value, what=what, field=field)
    except credentials.InvalidCredential as error:
        raise AccessDenied(str(error)) from None
