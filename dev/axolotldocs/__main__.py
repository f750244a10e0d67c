"""``python -m axolotldocs CHECKOUT``: write the page about the examples in a clone of Axolotl."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_cli.axolotl.convert import convert
from finetune_cli.axolotl.notes import Refusal, Severity
from finetune_cli.offline import job_file
from finetune_trainer.errors import InvalidSpec

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/axolotl-examples.md"
REPOSITORY = "https://github.com/axolotl-ai-cloud/axolotl"
EXAMPLES = "examples"
WHOLE = "(the FineTuneJob is invalid)"
"""Group of the configurations whose FineTuneJob violates a rule across fields."""
HEAD = """\
<!-- Written by `python -m axolotldocs`, see development/testing.md; do not edit. -->

# Import of Axolotl's examples

`ftj import-axolotl` was run on the {all} [example configurations of Axolotl]({url})
at commit `{commit}`. The command is described in
[workstation](../getting-started/workstation.md#import-an-axolotl-configuration), together with the
words *dropped* and *changed*.

| Result | Configurations |
|---|---|
| converted, no setting is dropped | {complete} |
| converted, some settings are dropped | {lossy} |
| rejected | {rejected} |
"""
SECTION = """
## {title}

{text}

| Setting | Configurations | Example |
|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The import of one configuration. rejected: the setting that rejects it, or None."""

    name: str
    rejected: str | None
    dropped: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()


def results(examples: Path) -> Iterator[Result]:
    """Yield the result for each configuration in a folder; a file without a base model is none."""
    for file in sorted(examples.rglob("*.y*ml")):
        name = str(file.relative_to(examples))
        for config in job_file.load(file):
            if "base_model" in config:
                yield _result(name, config)


def _result(name: str, config: dict[str, object]) -> Result:
    try:
        _, notes = convert(config)
    except Refusal as error:
        return Result(name=name, rejected=error.key)
    except InvalidSpec:
        return Result(name=name, rejected=WHOLE)
    keys = {
        severity: frozenset(note.key for note in notes if note.severity == severity)
        for severity in Severity
    }
    return Result(
        name=name,
        rejected=None,
        dropped=keys[Severity.DROPPED],
        changed=keys[Severity.CHANGED],
    )


def page(results: list[Result], *, commit: str) -> str:
    """Return the page about some results."""
    converted = [result for result in results if result.rejected is None]
    complete = sum(not result.dropped for result in converted)
    head = HEAD.format(
        all=len(results),
        url=f"{REPOSITORY}/tree/{commit}/{EXAMPLES}",
        commit=commit[:8],
        complete=complete,
        lossy=len(converted) - complete,
        rejected=len(results) - len(converted),
    )
    return head + "".join(
        _section(title, text, pairs)
        for title, text, pairs in (
            (
                "Dropped settings",
                "The settings that the job loses, in converted configurations.",
                ((key, result.name) for result in converted for key in result.dropped),
            ),
            (
                "Changed settings",
                "The settings for which the job uses the most similar one, in converted "
                "configurations.",
                ((key, result.name) for result in converted for key in result.changed),
            ),
            (
                "Rejected configurations",
                "The first setting of each configuration that a job does not support.",
                (
                    (result.rejected, result.name)
                    for result in results
                    if result.rejected is not None
                ),
            ),
        )
    )


def _section(title: str, text: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a table of settings, the most frequent one first. pairs: setting, configuration."""
    names: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        names[key].append(name)
    rows = sorted(names.items(), key=lambda row: (-len(row[1]), row[0]))
    return SECTION.format(title=title, text=text) + "".join(
        f"| `{key}` | {len(files)} | `{files[0]}` |\n" for key, files in rows
    )


def main() -> int:
    """Write the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="axolotldocs", description=__doc__)
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="clone of Axolotl")
    checkout = parser.parse_args().checkout
    if not (checkout / EXAMPLES).is_dir():
        parser.error(f"{checkout} has no folder {EXAMPLES}: name a clone of {REPOSITORY}")
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    PAGE.write_text(page([*results(checkout / EXAMPLES)], commit=commit), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
