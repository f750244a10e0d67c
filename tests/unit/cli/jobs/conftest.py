"""The verbs on jobs, against the cluster of the reference page, of which a test changes objects."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from clidocs import example_objects, page
from finetune_cli import __main__ as ftj

Objects = dict[str, list[dict[str, Any]]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def objects() -> Objects:
    """Return the objects of the cluster; a change before the first call takes effect."""
    return copy.deepcopy(dict(example_objects.COLLECTIONS))


@pytest.fixture
def run(
    objects: Objects, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Return a function that runs a verb, and returns its exit code, stdout and stderr."""

    def run(*arguments: str, columns: int | None = 80) -> tuple[int, str, str]:
        with page.environment(objects):
            monkeypatch.setenv("NO_COLOR", "1")
            if columns is None:
                monkeypatch.delenv("COLUMNS")
            else:
                monkeypatch.setenv("COLUMNS", str(columns))
            # The client reads $KUBECONFIG once, when it is imported.
            code = ftj.main([*arguments, "--kubeconfig", "kubeconfig"])
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err
        if columns is not None and said.out[:1] not in "{[":
            assert max(map(len, said.out.splitlines()), default=0) <= columns
        return code, said.out, said.err

    return run


@pytest.fixture
def job(objects: Objects) -> Callable[[str], dict[str, Any]]:
    """Return a function that returns a job of the cluster by its name."""

    def job(name: str) -> dict[str, Any]:
        jobs = objects[example_objects.JOBS]
        return next(each for each in jobs if each["metadata"]["name"] == name)

    return job


def document(text: str) -> Any:
    """Return the JSON that a verb has printed."""
    return json.loads(text)
