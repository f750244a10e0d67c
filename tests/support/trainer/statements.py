"""The statements of the operator about what a volume has published."""

import json
from dataclasses import replace
from typing import Any

from tests.support.published_facts import facts
from tests.support.signing_keys import KEY
from tests.support.trainer.publishing import Published

from finetune_operator.provenance import signed
from finetune_operator.provenance.statement import statement


def statements_about(done: Published, name: str = "bucket") -> dict[str, Any]:
    """Return the fields of the request that adds the operator's statements about a content.

    name: of the target in the facts.
    """
    found = facts(name)
    known = {"digest": done.only.digest, "manifest": done.only.manifest}
    publication = found.publication.model_copy(update=known)
    bundle = signed.bundle(statement(replace(found, publication=publication)), KEY)
    on_hub = found.place.hugging_face is not None
    signature = None
    if done.lists is not None:
        signature = signed.model_signature(done.files, KEY, on_hub=on_hub)
    return {
        "attestation": json.dumps(bundle),
        "attested": f"sha256:{done.only.manifest}" if on_hub else done.only.digest,
        "model_signature": signature,
    }
