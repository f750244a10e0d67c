"""The wanted set: which sets are accepted.

A tenant with the role ``edit`` can write the ConfigMap that carries the set, and a client inside
the cluster may send one. So its origin means nothing. It needs the operator's signature, the uid of
the endpoint, and a sequence number that never falls. ``accepted`` is pure; ``Wanted`` keeps the
last number in a file, which survives a restart of the gate alone. A new pod has no such file, so
the arguments of its gate have the number of the set at that time.
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from finetune_api.contracts.endpoint import LONGEST, PAYLOAD_TYPE, WantedSet
from finetune_api.contracts.provenance import attestation
from finetune_api.safety.redaction import one_line
from finetune_gate.errors import Refused
from finetune_gate.key_files import Keys, with_keys

PublicKey = ec.EllipticCurvePublicKey


def public_key(pem: str) -> PublicKey:
    """Return the operator's public key. Raise ValueError."""
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the public key is not supported: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the public key is no elliptic curve key, as the operator signs with")
    return key


def accepted(
    document: bytes, key: PublicKey, *, endpoint: str, last: WantedSet | None, least: int = 1
) -> WantedSet:
    """Return the set in a signed document. Raise Refused.

    endpoint: uid of this pod's endpoint. last: the set in use. least: lowest sequence number.
    """
    if len(document) > LONGEST:
        raise Refused(f"the wanted set has {len(document)} bytes; at most {LONGEST} are read")
    try:
        opened = attestation.opened(document, kind=PAYLOAD_TYPE)
    except attestation.Malformed as error:
        raise Refused(f"the wanted set cannot be read: {error}") from error
    data = attestation.signed_bytes(opened.payload, kind=PAYLOAD_TYPE)
    if not any(_is_valid(key, signature, data) for signature in opened.signatures):
        raise Refused("the wanted set has no valid signature of the operator")
    # Nothing is interpreted before this line but the envelope.
    try:
        wanted = WantedSet.model_validate_json(opened.payload, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Refused(f"the wanted set is not valid: {one_line(error)}") from error
    if wanted.endpoint != endpoint:
        raise Refused(f"the wanted set is for the endpoint with uid {wanted.endpoint}")
    if wanted.sequence < least:
        raise Refused(
            f"the wanted set has sequence {wanted.sequence}; at least {least} is accepted"
        )
    if last is not None and wanted.sequence == last.sequence and wanted != last:
        raise Refused(f"another wanted set with sequence {wanted.sequence} was accepted")
    return wanted


def _is_valid(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


class Wanted:
    """The set in use. ``refused``: why the last one was not accepted."""

    def __init__(
        self,
        key: PublicKey,
        *,
        endpoint: str,
        record: Path,
        least: int,
        keys: Keys | None = None,
    ) -> None:
        """``record``: file that keeps the sequence number over a restart of the gate.

        ``least``: lowest sequence number that is accepted without such a file. ``keys``: of the
        jobs; None if requests need none but those in the set.
        """
        self.current: WantedSet | None = None
        """With the keys of the jobs."""
        self._accepted: WantedSet | None = None
        self._keys = keys
        self.refused: str | None = None
        self.endpoint = endpoint
        self._key = key
        self._record = record
        self._least = max(least, int(record.read_text()) if record.is_file() else 1)

    def offer(self, document: bytes) -> bool:
        """Use the set in a document if it is accepted; report whether it is."""
        try:
            wanted = accepted(
                document,
                self._key,
                endpoint=self.endpoint,
                last=self._accepted,
                least=self._least,
            )
        except Refused as error:
            self.refused = str(error)
            return False
        if wanted.sequence > self._least or not self._record.is_file():
            partial = self._record.with_suffix(".partial")
            partial.write_text(str(wanted.sequence))
            partial.rename(self._record)
        self._accepted, self.refused, self._least = wanted, None, wanted.sequence
        self.current = with_keys(wanted, self._keys)
        return True

    def use_keys(self, keys: Keys) -> bool:
        """Use other keys of the jobs; report whether they differ from those before."""
        if keys == self._keys:
            return False
        self._keys = keys
        if self._accepted is not None:
            self.current = with_keys(self._accepted, keys)
        return True
