"""Fixtures: those of the API server, and the registry of a release."""

from tests.support.api_server.fixtures import (  # noqa: F401  (pytest finds fixtures by name)
    control_plane,
    controller_manager,
    namespace,
    operator,
    operators_are_forked,
    place,
)
from tests.support.releases import registry  # noqa: F401
