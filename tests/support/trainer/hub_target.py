"""A repository of a hub as a target of publishing, whose files the operator may sign."""

from typing import Any

from tests.fakes.model_hub import TOKEN, ModelHub, Repo
from tests.support.trainer.publishing import Published, Volume, run
from tests.support.trainer.statements import statements_about
from tests.support.trainer.web import Certificate

REPO = "acme/tiny"
ENVIRONMENT = {"PUBLISH_MAIN_HF_TOKEN": TOKEN}


def hub_target(volume: Volume, hub: ModelHub, certificate: Certificate) -> dict[str, Any]:
    """Return the target that publishes the merged model."""
    place = {"repo": REPO, "endpoint": hub.url, "ca": str(certificate.authority)}
    return volume.target("merged", hugging_face=place)


class Signing:
    """A model whose files the operator signs before the hub gets them.

    The first attempt has only listed the files.
    """

    def __init__(self, volume: Volume, hub: ModelHub, target: dict[str, Any]) -> None:
        self.volume, self.hub, self.target = volume, hub, target
        self.listed = run(volume, target | {"attested": ""}, environment=ENVIRONMENT)
        assert self.listed.error is None, self.listed.failure
        self.files = self.listed.files

    @property
    def repo(self) -> Repo:
        return self.hub.repos[REPO]

    def attest(self, **changes: Any) -> Published:
        """Publish the model together with its statements. changes: of the request."""
        signs = statements_about(self.listed, "hub")
        return run(self.volume, self.target | signs | changes, environment=ENVIRONMENT)
