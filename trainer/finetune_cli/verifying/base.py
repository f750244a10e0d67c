"""The base model that a signed provenance names."""

from collections.abc import Iterable

from finetune_api.contracts.provenance.attestation import PROVENANCE_TYPE, Statement
from finetune_cli.verifying.failures import Code, fail


def check(statements: Iterable[Statement], expected: str) -> None:
    """Require that a model was tuned from a base. Raise NotVerified.

    expected: ``hf://ORG/NAME`` or another source, or ``ORG/NAME``; with ``@COMMIT`` to require the
    commit, too.
    """
    wanted = expected if "://" in expected else f"hf://{expected}"
    bases = [base for statement in statements if (base := _base(statement)) is not None]
    if not bases:
        fail(
            Code.OTHER_BASE,
            f"no signed statement names the base, so it is not known whether it is {wanted}",
        )
    for base in bases:
        # The commit is a part of the source only if it was asked for.
        compared = base if "@" in wanted else base.partition("@")[0]
        if compared != wanted:
            fail(
                Code.OTHER_BASE,
                f"the model was tuned from {base}, not from {wanted}: correct --base, or do not "
                "use the model",
            )


def _base(statement: Statement) -> str | None:
    if statement["predicateType"] != PROVENANCE_TYPE:
        return None
    try:
        inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        return next(
            (str(dependency["uri"]) for dependency in inputs if dependency.get("name") == "base"),
            None,
        )
    except (KeyError, TypeError, AttributeError):
        return None
