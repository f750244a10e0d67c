"""The configuration of the process: environment variables, and the file that one of them names.

=========================  =====================================================================
``FINETUNE_CONFIG``        path of the configuration file; default: that of the chart's ConfigMap
``FINETUNE_METRICS_PORT``  port of ``/metrics``
``FINETUNE_PROBE_PORT``    port of ``/healthz`` and ``/readyz``
``POD_NAME``               identity in leader election; default: the host name and the process id
=========================  =====================================================================
"""

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from finetune_api.defaulting import InvalidSpec, effective_defaults
from finetune_api.layering import without_nulls
from finetune_api.policy.check import violations_of_defaults
from finetune_operator import health
from finetune_operator.config import ProcessConfig, Settings, parsed
from finetune_operator.metrics_server import server as metrics_server
from finetune_operator.revisions.documents import MOST_FROZEN_BYTES, frozen_part
from finetune_operator.signing import InvalidKey, SigningKey

CONFIG_FILE = "/etc/finetune-operator/config.yaml"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The variables of the process, with their defaults."""

    config_file: Path
    metrics_port: int
    probe_port: int
    identity: str


class ConfigurationError(Exception):
    """The configuration is invalid; the message names file and field."""


def read(variables: Mapping[str, str]) -> Environment:
    """Return the environment of the process. Raises ConfigurationError."""
    return Environment(
        config_file=Path(variables.get("FINETUNE_CONFIG") or CONFIG_FILE),
        metrics_port=_port(variables, "FINETUNE_METRICS_PORT", metrics_server.PORT),
        probe_port=_port(variables, "FINETUNE_PROBE_PORT", health.PORT),
        identity=variables.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
    )


def _port(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigurationError(f"{name}: {text!r} is not a port; use a number from 1 to 65535")
    return int(text)


def load_config(path: Path) -> tuple[ProcessConfig, Settings]:
    """Return the validated configuration. Raises ConfigurationError."""
    try:
        process, settings = parsed(yaml.safe_load(path.read_text(encoding="utf-8")))
        defaults = effective_defaults(settings.defaults)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: invalid YAML: {error}") from error
    except InvalidSpec as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg']}"
            for detail in error.errors()
        )
        raise ConfigurationError(f"{path}: {details}") from error
    if refused := violations_of_defaults(without_nulls(settings.defaults), settings.policy):
        raise ConfigurationError(
            f"{path}: values in defaults violate the limits in policy: {' '.join(refused)}"
        )
    size = len(frozen_part(settings.model_copy(update={"defaults": defaults})).encode())
    if size > MOST_FROZEN_BYTES:
        raise ConfigurationError(
            f"{path}: images, serving, hub and defaults have {size} bytes together, but "
            f"at most {MOST_FROZEN_BYTES} are allowed: the operator copies these settings into the "
            "status of each job. Set long values, such as dataset.chatTemplate, in the jobs "
            "instead of in defaults."
        )
    hub, egress = settings.hub, settings.egress
    closed = hub.port not in egress.ports and not egress.hub_cidrs
    if hub.is_outside_name and closed and not settings.proxy.serves(hub):
        raise ConfigurationError(
            f"{path}: hub.endpoint: port {hub.port} of {hub.host} is not in egress.ports, "
            "so prepare pods cannot reach the hub. Set egress.hubCidrs to the address ranges of "
            f"{hub.host}. The operator then allows connections to this port only if the address is "
            "in these ranges."
        )
    if settings.proxy.is_outside_name and not settings.proxy.cidrs:
        raise ConfigurationError(
            f"{path}: proxy.url: NetworkPolicies cannot select the host name "
            f"{settings.proxy.host}. Set proxy.cidrs to the address ranges of the proxy."
        )
    if process.log_level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(
            f"{path}: logLevel: {process.log_level!r} is invalid; use debug, info, warning or error"
        )
    key = _signing_key(process.signing_key_file)
    return process, settings.model_copy(update={"signing_key": key})


def _signing_key(file: str) -> SigningKey | None:
    """Return the key in a file, None without a file. Raises ConfigurationError."""
    if not file:
        return None
    place = f"signingKeyFile {file} (chart value provenance.signingKeySecret)"
    try:
        return SigningKey(Path(file).read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{place}: {error.strerror}: the Secret has no key with the name in "
            "provenance.signingKeySecretKey"
        ) from error
    except InvalidKey as error:
        raise ConfigurationError(f"{place}: {error}") from error
