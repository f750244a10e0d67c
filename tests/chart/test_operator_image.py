"""Contents of the operator image, by its files. The end-to-end tests run the image itself."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINS = (ROOT / "constraints" / "operator.txt").read_text()
DOCKERFILE = (ROOT / "Dockerfile.operator").read_text()


def _pinned() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", PINS, re.MULTILINE))


def test_packages_are_pinned_and_include_no_training_library() -> None:
    pinned = _pinned()
    assert {"kopf", "kubernetes", "pydantic", "pyyaml", "aiohttp", "prometheus-client"} <= set(
        pinned
    )
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pinned.values())
    assert not {"torch", "transformers", "datasets", "numpy", "pytest", "ruff"} & set(pinned)


def test_packages_are_installed_before_the_code_is_copied() -> None:
    """Otherwise each change of the code would reinstall all packages."""
    order = [
        DOCKERFILE.index(step)
        for step in (
            "COPY constraints/operator.txt",
            "uv pip install",
            "COPY crds/finetune_api",
            "COPY operator/finetune_operator",
        )
    ]
    assert order == sorted(order)


def test_base_image_is_an_argument_and_the_user_is_unprivileged() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(stages) == {"${BASE_IMAGE}"}
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    last = DOCKERFILE.rsplit("FROM ", 1)[1]
    assert "apt-get" not in last
    assert "/opt/uv" not in last
