"""Prepare behind a proxy: a mirror with a path, a web server and a store, with a private CA.

The destinations are those of the operator. The process can connect to the proxy only, and only the
proxy knows the names of the hosts.
"""

import functools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.support.trainer import hub as hubs
from tests.support.trainer import proxy as proxies
from tests.support.trainer.hub import SIGNATURE
from tests.support.trainer.proxy import Proxy
from tests.support.trainer.stores import ROWS, assert_failed, sha256
from tests.support.trainer.web import Bucket, Certificate, Web
from tests.support.trainer.workshop import Ended
from tests.trainer.conftest import MakeWorkshop

from finetune_api.policy.limits import Names
from finetune_operator.config import Settings
from finetune_operator.manifests import egress
from finetune_trainer.checkpointing import manifest

MIRROR = "https://hub.corp.test/api/mirror"
IMAGES = {"trainer": "t", "serving": "s", "operator": "o"}


def use_mirror(endpoint: str) -> None:
    """Do what HF_ENDPOINT does: the client reads it when it is imported."""
    from huggingface_hub import constants

    constants.ENDPOINT = endpoint
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HUGGINGFACE_CO_URL_TEMPLATE = template


class Network:
    """Servers, and the proxy in front of them."""

    def __init__(self, site: Web, proxy: Proxy, key: dict[str, str]) -> None:
        self.site = site
        self.proxy = proxy
        self._variables = {f"EVALUATION_DATASET_{name}": value for name, value in key.items()}

    def prepare(
        self,
        make: MakeWorkshop,
        folder: Path,
        authority: str = "",
        hosts: tuple[Names, ...] = (),
        **changes: Any,
    ) -> tuple[Ended, Path]:
        """Run prepare. hosts: limits of profiles; the chart denies one host."""
        config = Settings.model_validate(
            {
                "images": IMAGES,
                "hub": {"endpoint": MIRROR},
                "proxy": {"url": self.proxy.url},
                "policy": {"hosts": {"deny": ["denied.corp.test"]}},
            }
        )
        allowed = egress.destinations(config, cloud_identity=False, hosts=hosts)
        rows = {"source": "https://rows.corp.test/rows.jsonl", "sha256": sha256(ROWS)}
        workshop = make(**({"dataset": rows} | changes)).with_fault(
            functools.partial(use_mirror, MIRROR)
        )
        self.proxy.forget()
        ended = workshop.run(
            "prepare",
            destinations=allowed,
            ca_certificates=authority,
            FINETUNE_CONFIG_DIR=str(folder),
            **self._variables,
        )
        return ended, workshop.work


@pytest.fixture(scope="module")
def network(
    _server: Web,
    bucket: Bucket,
    certificate: Certificate,
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Network]:
    with ExitStack() as stack:
        mirror = stack.enter_context(hubs.serving(certificate.context()))
        mirror.path, mirror.cdn = "/api/mirror", "https://cdn.corp.test/weights"
        mirror.add("model", "demo/tiny", base)
        _server.files = {
            f"weights/{path.name}?Signature={SIGNATURE}": path.read_bytes()
            for path in base.glob("*.safetensors")
        }
        _server.files["rows.jsonl"] = ROWS
        ports = {
            "hub.corp.test": urlsplit(mirror.url).port,
            "cdn.corp.test": urlsplit(_server.url).port,
            "rows.corp.test": urlsplit(_server.url).port,
            "denied.corp.test": urlsplit(_server.url).port,
            "localstack.corp.test": urlsplit(bucket.url).port,
        }
        proxy = stack.enter_context(
            proxies.proxy(
                {name: port for name, port in ports.items() if port},
                tmp_path_factory.mktemp("proxy") / "log",
            )
        )
        yield Network(_server, proxy, bucket.allowed)


def store(bucket: Bucket) -> dict[str, Any]:
    source = f"s3://{bucket.name}/rows/train.jsonl"
    # With this name, moto finds the bucket in the path, as it does for an address.
    return {
        "source": source,
        "format": "alpaca",
        "s3": {"endpoint": "https://localstack.corp.test"},
    }


@pytest.mark.parametrize("of_chart", [True, False], ids=["CA of the chart", "CAs of the job"])
def test_prepare_downloads_through_the_proxy(
    network: Network,
    make: MakeWorkshop,
    base: Path,
    bucket: Bucket,
    certificate: Certificate,
    tmp_path: Path,
    of_chart: bool,
) -> None:
    authority = certificate.authority.read_text() if of_chart else ""
    if not of_chart:
        (tmp_path / "ca").mkdir()
        for kind in ("model", "dataset", "evaluation.dataset"):
            shutil.copy(certificate.authority, tmp_path / "ca" / f"{kind}.crt")
    ended, work = network.prepare(make, tmp_path, authority, evaluation={"dataset": store(bucket)})
    assert ended.code == 0, ended.log
    found = manifest.read(work / "base")
    assert {entry.name: entry.sha256 for entry in found.files} == {
        path.name: sha256(path.read_bytes()) for path in base.iterdir()
    }
    assert network.proxy.requests() == {
        f"{name}.corp.test:443" for name in ("hub", "cdn", "rows", "localstack")
    }


def test_certificate_of_an_unknown_authority_is_refused(
    network: Network, make: MakeWorkshop, tmp_path: Path
) -> None:
    ended, _ = network.prepare(make, tmp_path)
    assert_failed(ended, 64, "InvalidSpec", "chart value caCertificates", "caConfigMapRef")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "https://denied.corp.test/rows.jsonl",
            "policy.hosts does not allow the host denied.corp.test",
        ),
        ("https://10.0.0.1/rows.jsonl", "port 443 of 10.0.0.1 through the proxy"),
        ("https://intranet/rows.jsonl", "port 443 of intranet through the proxy"),
    ],
)
def test_redirect_to_a_denied_host_does_not_reach_the_proxy(
    network: Network,
    make: MakeWorkshop,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    said: str,
) -> None:
    monkeypatch.setitem(network.site.redirects, "rows.jsonl", target)
    ended, _ = network.prepare(make, tmp_path, certificate.authority.read_text())
    assert_failed(ended, 77, "AccessDenied", said, "https://rows.corp.test/rows.jsonl")
    assert f"{urlsplit(target).hostname}:443" not in network.proxy.requests()


def test_redirect_outside_the_hosts_of_a_profile_does_not_reach_the_proxy(
    network: Network,
    make: MakeWorkshop,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The chart allows the host, and a job without the profile downloads from it."""
    target = "https://cdn.corp.test/elsewhere.jsonl"
    monkeypatch.setitem(network.site.files, "elsewhere.jsonl", ROWS)
    monkeypatch.setitem(network.site.redirects, "rows.jsonl", target)
    authority = certificate.authority.read_text()
    ended, _ = network.prepare(make, tmp_path, authority)
    assert ended.code == 0, ended.log
    limits = (Names(allow=("rows[.]corp[.]test",)),)
    ended, _ = network.prepare(make, tmp_path, authority, limits)
    said = "limits.hosts of the job's profile"
    assert_failed(ended, 77, "AccessDenied", said, "the host cdn.corp.test")
