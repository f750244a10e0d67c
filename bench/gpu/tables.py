"""Tables of a file of results."""

from collections.abc import Iterable, Sequence
from typing import Any

from bench.gpu import exact, memory
from bench.gpu.results import FAILED, Results
from bench.table import table

NOT_MEASURED = "not measured"
Row = tuple[str, ...]


def render(results: Results) -> str:
    """Return the machine and the tables of all measurements."""
    about = results.about
    cap = about["memoryCap"]
    kind = f"memory capped at {_gib(cap)}" if cap else "a dry run without a GPU"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    title = (
        f"Machine: {about['machine']}. Shape {about['shape']}, random weights; {kind}. {versions}."
    )
    measured = results.measured
    parts = [
        _memory(measured),
        _exact(measured),
        _nf4(measured.get("nf4", {})),
        _settings(measured),
    ]
    failed = sorted(name for name, figures in measured.items() if FAILED in figures)
    reasons = "\n".join(f"* {name} failed: {measured[name][FAILED]}" for name in failed)
    return "\n\n".join([title, *parts, *([reasons] if reasons else [])])


def _memory(measured: dict[str, dict[str, Any]]) -> str:
    rows = []
    for backend, variant, figures in _named("memory", measured):
        estimated, peak = figures.get("estimated"), figures.get("peak")
        difference = f"{100 * (estimated / peak - 1):+.1f} %" if estimated and peak else None
        normal = measured.get(f"memory/{backend}/{memory.DEFAULT}", {}).get("secondsPerStep")
        seconds = figures.get("secondsPerStep")
        rows.append(
            (
                f"`{backend}`",
                variant,
                NOT_MEASURED if estimated is None else _gib(estimated),
                NOT_MEASURED if peak is None else _gib(peak),
                "-" if variant == memory.PLAIN else difference or NOT_MEASURED,
                _text(figures.get("tokensPerSecond"), ".0f"),
                f"{100 * (seconds / normal - 1):+.1f} %" if seconds and normal else NOT_MEASURED,
            )
        )
    head = ("backend", "training", "estimated", "peak", "difference (goal: 5 %)", "tokens/s")
    return table((*head, "time of a step"), _or_none(rows, len(head) + 1))


def _exact(measured: dict[str, dict[str, Any]]) -> str:
    rows = []
    for backend, algorithms, again in _named("repeat", measured):
        resumed = measured.get(f"resume/{backend}/{algorithms}", {})
        normal = measured.get(f"repeat/{backend}/{exact.ALGORITHMS[0]}", {}).get("secondsPerStep")
        seconds = again.get("secondsPerStep")
        rows.append(
            (
                f"`{backend}`",
                algorithms,
                again.get("difference", NOT_MEASURED),
                resumed.get("difference", NOT_MEASURED),
                _text(seconds, ".3f"),
                f"{100 * (seconds / normal - 1):+.1f} %" if seconds and normal else NOT_MEASURED,
            )
        )
    head = ("backend", "algorithms", "second run", "resumed run", "seconds per step", "cost")
    return table(head, _or_none(rows, len(head)))


def _nf4(figures: dict[str, Any]) -> str:
    what = {
        "tensors": "tensors",
        "equalCodes": "with the same codes",
        "equalScales": "with the same scales",
        "largestStep": "largest relative step",
    }
    rows = [(text, str(figures.get(name, NOT_MEASURED))) for name, text in what.items()]
    return table(("4-bit weights quantized on the GPU and by a merge", "figure"), rows)


def _settings(measured: dict[str, dict[str, Any]]) -> str:
    rows = []
    for backend, what, figures in _named("settings", measured):
        if FAILED in figures:
            result = f"failed: {figures[FAILED]}"
        else:
            result = "; ".join([f"trained, attention {figures['attention']}", *figures["log"]])
        rows.append((f"`{backend}`", what, result))
    head = ("backend", "setting", "result")
    return table(head, _or_none(rows, len(head)))


def _named(
    part: str, measured: dict[str, dict[str, Any]]
) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Yield backend, second name and figures of the measurements of a part."""
    for name, figures in measured.items():
        if name.startswith(f"{part}/"):
            _, backend, what = name.split("/", 2)
            yield backend, what, figures


def _or_none(rows: Sequence[Row], columns: int) -> list[Row]:
    return list(rows) or [(NOT_MEASURED, *["-"] * (columns - 1))]


def _gib(bytes_: int) -> str:
    return f"{bytes_ / 2**30:.2f} GiB"


def _text(value: float | None, spec: str) -> str:
    return NOT_MEASURED if value is None else format(value, spec)
