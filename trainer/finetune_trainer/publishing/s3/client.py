"""The client of the S3 service of a target, with its own certificates and credentials."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api.contracts.publish_targets import S3Target
from finetune_api.safety.credentials import of_target
from finetune_trainer.sources import credentials, egress, trust
from finetune_trainer.sources.s3 import IDENTITIES

REGION = "us-east-1"
"""Region of a service for which none is set."""


@contextmanager
def connected(name: str, s3: S3Target, environment: Mapping[str, str]) -> Iterator[Any]:
    """Yield the client of the service of a target."""
    from botocore.session import get_session

    field = f"publish[{name}].s3"
    key, secret, token = (
        credentials.read(
            of_target(name) + variable,
            what=variable,
            field=f"{field}.secretRef",
            environment=environment,
        )
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    )
    if s3.endpoint is not None:
        # The policy has allowed it as a destination.
        egress.announce(s3.endpoint, chosen_by_job=False)
    verify: str | None = os.environ.get(trust.VARIABLE)
    if s3.ca is not None:
        own = f"{field}.caConfigMapRef"
        verify = str(trust.bundle(trust.read(Path(s3.ca), field=own), field=own))
    # The default chain of botocore would end at the identity of the node.
    anonymous = not key and not any(environment.get(variable) for variable in IDENTITIES)
    client = get_session().create_client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region or REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        verify=verify,
        config=options(s3.endpoint, anonymous=anonymous),
    )
    try:
        yield client
    finally:
        client.close()


def options(endpoint: str | None, *, anonymous: bool) -> Any:
    """Return the configuration of a client, which follows no redirect to another server.

    endpoint: None for Amazon S3.
    """
    from botocore import UNSIGNED
    from botocore.config import Config

    plain = endpoint is not None and not endpoint.startswith("https://")
    return Config(
        signature_version=UNSIGNED if anonymous else None,
        connect_timeout=20,
        read_timeout=60,
        retries={"max_attempts": 5, "mode": "standard"},
        # Every request has its own checksum.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": "auto" if endpoint is None else "path",
            # TLS protects the bodies, so that they need no SHA-256 in the signature as well.
            "payload_signing_enabled": plain,
        },
    )
