"""The versions that are tested, and the tests of each.

The tests of Kubernetes, Helm and Python are those of ``make test``, which uses one version of each.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

from checks import environment
from cluster import packages, paths
from cluster.artifacts import binaries, gomodule
from cluster.artifacts.gomodule import Module
from cluster.errors import ClusterError
from cluster.shell import capture
from conformance import debian, modules

ADMISSION = (
    "tests/integration/test_crd_admission.py",
    "tests/integration/test_crd_differential.py",
    "tests/integration/test_chart_admission.py",
    "tests/integration/test_object_policy.py",
    "tests/integration/test_policy_admission.py",
    "tests/integration/test_pod_security.py",
    "tests/integration/test_rights.py",
)
LIFECYCLE = "tests/integration/test_operator_with_controllers.py"
COMMANDS = "tests/conformance/test_documented_commands.py"
CHART = (
    "tests/chart/test_chart_rendering.py",
    "tests/chart/test_chart_schema.py",
    "tests/integration/test_chart_admission.py",
    "tests/integration/test_release.py",
)
CODE = (
    "tests/unit/api",
    "tests/unit/operator/controller",
    "tests/unit/operator/kube",
    "tests/unit/operator/objects",
    "tests/unit/operator/revisions",
    "tests/unit/operator/snapshot",
    "tests/unit/operator/telemetry",
)
PROCESS = (
    LIFECYCLE,
    "tests/integration/test_kube_client.py",
    "tests/integration/test_operator_process.py",
    "tests/integration/test_secure_metrics.py",
)
"""The operator as a process: it runs with the interpreter of the tests."""
CONSUMERS = "tests/conformance/consumers"
"""Programs of others that read published models."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """How the tests of a component run: the command of Python, and environment variables."""

    version: str
    python: tuple[str, ...] = ()
    """Empty: that of the development environment."""
    variables: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """One version of another project. ``prepare`` builds or installs it; raises ClusterError."""

    name: str
    label: str
    """The version, or its source: it is known before ``prepare``."""
    tests: tuple[str, ...]
    prepare: Callable[[], Setup]

    @property
    def title(self) -> str:
        """The text that identifies the component."""
        return f"{self.name} {self.label}"


def _assets() -> dict[str, str]:
    return {"KUBEBUILDER_ASSETS": str(binaries.ensure(*binaries.ASSETS))}


def _replaced(module: Module, version: str) -> Setup:
    """Build the programs of a module; they replace those of the same name in the assets."""
    assets = binaries.ensure(*binaries.ASSETS)
    folder = modules.folder(module)
    gomodule.build(module, folder)
    for program in assets.iterdir():
        if program.is_file() and program.name not in module.packages:
            link = folder / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    return Setup(version=version, variables={"KUBEBUILDER_ASSETS": str(folder)})


def _kubernetes(version: str) -> Component:
    return Component(
        name="Kubernetes",
        label=version,
        tests=(*ADMISSION, LIFECYCLE, COMMANDS),
        prepare=functools.partial(_replaced, modules.kubernetes(version), version),
    )


def _helm(version: str, *, kubernetes: str = "") -> Component:
    module = modules.helm(version, kubernetes=kubernetes)
    return Component(
        name="Helm",
        label=version,
        tests=(*CHART, COMMANDS),
        prepare=functools.partial(_replaced, module, version),
    )


def _python(suite: str) -> Component:
    def prepare() -> Setup:
        python = debian.ensure(suite)
        return Setup(version=python.version, python=python.command, variables=_assets())

    return Component(
        name="Python", label=f"of Debian {suite}", tests=(*CODE, *PROCESS), prepare=prepare
    )


def _program(
    name: str,
    module: Module,
    tests: tuple[str, ...],
    programs: Mapping[str, str],
    *,
    variables: Mapping[str, str] | None = None,
    others: Sequence[Module] = (),
) -> Component:
    """Return a component that is built from a Go module.

    programs: programs of Debian that its tests also need. variables: environment variables in which
    the tests expect the path of a built program. others: modules whose programs they also need.
    """
    version, folder = module.version.removeprefix("v"), modules.folder(module)
    program_paths = {key: str(folder / program) for key, program in (variables or {}).items()}

    def prepare() -> Setup:
        packages.ensure_programs(programs)
        for needed in (module, *others):
            gomodule.build(needed, modules.folder(needed))
        return Setup(version=version, variables={**_assets(), **program_paths})

    return Component(name=name, label=version, tests=tests, prepare=prepare)


def _python_program(name: str, package: str, variable: str, tests: tuple[str, ...]) -> Component:
    """Return a component that is installed from PyPI, in an environment of its own.

    package: name of its package, and of its constraints file. variable: environment variable in
    which the tests expect the path of its program.
    """
    constraints = paths.REPO / "constraints" / f"{package}.txt"
    pinned = re.search(rf"^{package}==(\S+)", constraints.read_text(), re.MULTILINE)
    assert pinned is not None
    label, folder = pinned[1], paths.CACHE / package

    def prepare() -> Setup:
        log = paths.CACHE / "tests" / f"{package}.log"
        environment.create(folder, [constraints], log, title=f"install {name}")
        program = str(folder / "bin" / name.lower())
        return Setup(version=label, variables={**_assets(), variable: program})

    return Component(name=name, label=label, tests=tests, prepare=prepare)


def _argocd(name: str, test: str) -> Component:
    return _program(name, modules.ARGOCD, (test,), {"git": "git", "redis-server": "redis-server"})


def _proxy() -> Component:
    def prepare() -> Setup:
        packages.ensure_programs({"tinyproxy-bin": "tinyproxy"})
        version = capture(["tinyproxy", "-v"]).split()[-1]
        return Setup(version=version, variables=_assets())

    return Component(
        name="Tinyproxy",
        label="of Debian",
        tests=("tests/conformance/test_proxy.py",),
        prepare=prepare,
    )


ALL = (
    # The oldest supported version, and the newest one.
    _kubernetes("1.31.14"),
    _kubernetes("1.37.2"),
    # The oldest supported version, and the newest one.
    _helm("3.17.0", kubernetes="1.32"),
    _helm("4.3.1"),
    # Debian 12 has the version of the operator image, which `make test` uses.
    _python("trixie"),
    _python("sid"),
    _argocd("Argo CD", "tests/conformance/test_argocd.py"),
    _argocd("Argo CD on the local cluster", "tests/conformance/test_argocd_cluster.py"),
    _program(
        "etcdutl",
        modules.ETCDUTL,
        ("tests/integration/test_disaster_recovery.py",),
        {},
        variables={"ETCDUTL": "etcdutl"},
    ),
    _proxy(),
    _program(
        "cosign",
        modules.COSIGN,
        (
            "tests/conformance/test_release_images.py",
            "tests/conformance/test_release_cluster.py",
            f"{CONSUMERS}/test_cosign.py",
        ),
        {"podman": "podman"},
        variables={"COSIGN": "cosign"},
        others=(modules.REGISTRY,),
    ),
    _program(
        "cosign",
        modules.COSIGN_3,
        (f"{CONSUMERS}/test_cosign.py", f"{CONSUMERS}/test_cosign_3.py"),
        {},
        variables={"COSIGN": "cosign"},
        others=(modules.REGISTRY,),
    ),
    _program(
        "crane",
        modules.REGISTRY,
        (f"{CONSUMERS}/test_crane.py",),
        {"docker-registry": "docker-registry"},
    ),
    _program("versitygw", modules.VERSITYGW, (f"{CONSUMERS}/test_versitygw.py",), {}),
    _python_program(
        "model_signing", "model-signing", "MODEL_SIGNING", (f"{CONSUMERS}/test_model_signing.py",)
    ),
    _python_program(
        "MLflow", "mlflow", "MLFLOW", ("tests/trainer/publishing/test_real_mlflow.py",)
    ),
)


def chosen(names: Sequence[str]) -> list[Component]:
    """Return the components with these names or titles, or all. Raises ClusterError."""
    selectable = {text for component in ALL for text in (component.name, component.title)}
    if unknown := [name for name in names if name not in selectable]:
        raise ClusterError(
            f"no such component: {', '.join(unknown)}",
            hint=f"select from: {', '.join(component.title for component in ALL)}",
        )
    return [
        component
        for component in ALL
        if not names or {component.name, component.title} & set(names)
    ]
