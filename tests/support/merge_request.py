"""A Git repository with manifests, and ``examples/ci/plan.sh`` as the pipeline of a branch."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import yaml
from tests.fakes.comments import REQUEST, TOKEN, serving

from cluster import paths
from finetune_api import API_VERSION, KIND
from finetune_cli import __main__ as ftj

CI = paths.REPO / "examples" / "ci"
MANIFEST = f"""\
apiVersion: {API_VERSION}
kind: {KIND}
metadata: {{name: support}}
spec:
  model: {{source: hf://org/model}}
  dataset: {{source: hf://org/rows, format: alpaca}}
"""


class Repository:
    """A repository whose branch ``change`` begins at ``main``."""

    def __init__(self, folder: Path, manifest: str = MANIFEST) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit({"jobs/support.yaml": manifest, "chart/values.yaml": "{{ template }}\n"})
        self.git("switch", "--quiet", "--create", "change")
        self.tool = folder / "bin" / "ftj"
        self.tool.parent.mkdir()
        self.tool.write_text(RECORDER)
        self.tool.chmod(0o755)

    def use_installed_tool(self) -> None:
        """Run ftj as a program."""
        self.tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune_cli "$@"\n')

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *who, *words], cwd=self.folder, check=True)

    def commit(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", *files)
        self.git("commit", "--quiet", "--message=change")

    def remove(self, *names: str) -> None:
        self.git("rm", "--quiet", *names)
        self.git("commit", "--quiet", "--message=remove")

    def plan(self, *options: str, **variables: str) -> tuple[int, str, str]:
        """Return exit code, plan.md and stderr. variables: of the environment."""
        path = f"{self.tool.parent}{os.pathsep}{os.environ['PATH']}"
        recorded = self.folder / "recorded"
        shutil.rmtree(recorded, ignore_errors=True)
        recorded.mkdir()
        own = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "RECORDED": str(recorded)}
        done = subprocess.run(
            [str(CI / "plan.sh"), "main", "--offline", *options],
            cwd=self.folder,
            env=os.environ | own | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        code, plan = done.returncode, self.folder / "plan.md"
        if (call := recorded / "call").exists():
            # The script has called the recorder, which succeeds: this process runs the call.
            assert code == 0, done.stderr
            with redirect_stdout(io.StringIO()) as printed:
                code = ftj.main(call.read_text().split("\0")[:-1])
            plan.write_text(printed.getvalue())
            code = 0 if code == 3 else code
        return code, plan.read_text() if plan.exists() else "", done.stderr

    def use_documented_job(self) -> None:
        """Copy the scripts to .ci, make the repository its own origin, and run ftj as a program.

        No pipeline of a test reads config.json of a base model from the hub.
        """
        shutil.copytree(CI, self.folder / ".ci")
        self.git("remote", "add", "origin", str(self.folder))
        self.tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune_cli "$@" --offline\n')

    def run_documented_job(self, name: str, variables: Mapping[str, str]) -> None:
        """Run the documented job of github or gitlab, with the variables of its pipeline."""
        self.git("fetch", "--quiet", "origin")
        path = f"{self.tool.parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
        for script, of_step in _of_github() if name == "github" else _of_gitlab():
            environment = os.environ | own | dict(variables) | of_step
            done = subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=self.folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{script}: {done.stderr}"


@contextmanager
def documented_jobs(
    repository: Repository, kubeconfig: Path
) -> Iterator[Callable[[], Iterator[str]]]:
    """Yield the function that runs both jobs for a cluster, and yields their comments.

    Later runs edit the comment of the first one, and never that of another user.
    """
    cluster = {"PLAN_CLUSTER": "1", "KUBECONFIG": str(kubeconfig)}
    repository.use_documented_job()
    with serving() as github, serving() as gitlab:

        def run() -> Iterator[str]:
            for name, platform in {"github": github, "gitlab": gitlab}.items():
                repository.run_documented_job(name, platform.variables(name) | cluster)
                imitation, own = platform.comments
                assert imitation["body"].endswith("harmless")
                yield str(own["body"])

        yield run


EXPRESSIONS = {"github.token": TOKEN, "github.event.pull_request.number": str(REQUEST)}


def _of_github() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the scripts of the job with their variables, without the installation of ftj."""
    steps = yaml.safe_load((CI / "github-plan.yml").read_text())["jobs"]["plan"]["steps"]
    for step in steps:
        if "run" in step and "pipx" not in step["run"]:
            values = {
                key: re.sub(r"\$\{\{ (.+?) \}\}", lambda match: EXPRESSIONS[match[1]], value)
                for key, value in step.get("env", {}).items()
            }
            yield step["run"], values


def _of_gitlab() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the scripts of the job with their variables, without the installation of ftj."""
    job = yaml.safe_load((CI / "gitlab-plan.yml").read_text())["plan"]
    yield "\n".join(job["script"]), job["variables"]
    yield "\n".join(job["after_script"]), job["variables"]


RECORDER = """\
#!/bin/sh
# Keep the arguments of a call of ftj, and the files that they name.
count=0
for word in "$@"; do
  if [ -f "$word" ]; then
    count=$((count + 1))
    mkdir "$RECORDED/$count"
    cp "$word" "$RECORDED/$count/"
    word="$RECORDED/$count/$(basename "$word")"
  fi
  printf '%s\\0' "$word" >>"$RECORDED/call"
done
"""
