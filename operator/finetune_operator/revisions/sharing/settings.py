"""A FineTuneEndpoint with its settings: what its objects are rendered from. Pure.

The pods of an endpoint are placed, get their sources and obey the policy as those of a job do.
So the parts that both have become the spec of a job without a dataset, which is never trained.
"""

from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.defaulting import InvalidSpec, Resolved
from finetune_api.layering import without_nulls
from finetune_api.policy.check import violations
from finetune_api.policy.limits import Limits
from finetune_api.v1alpha1.endpoints.spec import FineTuneEndpointSpec
from finetune_api.v1alpha1.endpoints.status import PreparedBase
from finetune_api.v1alpha1.placement import Placement
from finetune_api.v1alpha1.references import SecretKeyRef
from finetune_api.v1alpha1.resources import Resources
from finetune_api.v1alpha1.serving import Serving
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.storage import Storage
from finetune_operator.config import Settings
from finetune_operator.types import Object


@dataclass(frozen=True, kw_only=True)
class TargetEndpoint:
    """The spec of an endpoint, the settings of the chart, and the part of a spec of a job."""

    spec: FineTuneEndpointSpec
    config: Settings
    resolved: Resolved

    def dtype(self, base: PreparedBase) -> str:
        """Return the data type in which vLLM computes."""
        own = None if self.spec.dtype == "auto" else self.spec.dtype
        return self.config.serving.dtype or own or str(base.dtype)


def resolve(endpoint: Object, settings: Settings) -> TargetEndpoint:
    """Return what an endpoint asks for. Raise InvalidSpec."""
    try:
        spec = FineTuneEndpointSpec.model_validate(without_nulls(endpoint["spec"]), by_name=False)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidSpec(f"spec.{field}: {first['msg']}") from error
    resolved = Resolved(
        spec=_of_job(spec), digest="", build_digest="", retry_key="", serve_key="", listed=False
    )
    return TargetEndpoint(spec=spec, config=settings, resolved=resolved)


def refusals(target: TargetEndpoint, limits: Limits) -> tuple[str, ...]:
    """Return why the policy does not allow an endpoint. Limits of training do not concern it."""
    without = {
        "require_queue": False,
        "require_profile": False,
        "max_gpu_seconds": 0,
        "max_idle_seconds": 0,
    }
    violated = violations(target.resolved.spec, limits.model_copy(update=without))
    return tuple(
        violation.message.replace("spec.serving.apiKeySecretRef", "spec.access.keysSecretRef")
        for violation in violated
    )


def _of_job(spec: FineTuneEndpointSpec) -> FineTuneJobSpec:
    keys = spec.access.keys_secret_ref
    return FineTuneJobSpec.model_construct(
        serving=Serving(api_key_secret_ref=None if keys is None else SecretKeyRef(name=keys.name)),
        model=spec.model,
        datasets=[],
        placement=spec.placement or Placement(),
        resources=Resources(prepare=spec.resources.prepare, serve=spec.resources.serve),
        storage=Storage(
            size=spec.storage.size,
            storage_class_name=spec.storage.storage_class_name,
            access_mode=spec.storage.access_mode,
        ),
    )
