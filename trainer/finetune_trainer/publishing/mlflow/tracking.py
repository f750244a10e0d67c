"""Sends the parameters, the metrics and the links of a training to an MLflow server, as one run.

The run is found again by a tag, and only what it does not have yet is sent, so a repeated attempt
adds nothing twice. The parameters are numbers and short words: no text of a row, and no template.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.publish_targets import MLflowTarget, PublishTargetRequest
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.errors import ResumeRefused
from finetune_trainer.publishing.content import File
from finetune_trainer.publishing.mlflow.api import EXISTS, FIELD, MISSING, Refused, Server
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.target_errors import TargetConflict, TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.reporting import loss_history
from finetune_trainer.reporting.loss_history import LossHistory
from finetune_trainer.volume.volume_errors import translate_volume_errors
from finetune_trainer.volume_layout import Layout

RUN_TAG = "finetune.dev/run"
"""Tag by which a run is found again: the UID of the job and the revision."""
LONGEST_VALUE = 250
"""Characters of a parameter; MLflow rejects longer ones by default from 500 or 6,000 on."""
MOST_PARAMS, MOST_METRICS = 100, 1000
"""Entries of one request."""
MOST_PAGES = 1000
"""Pages of the history of one metric."""
FACTS = (
    "source",
    "baseCommit",
    "datasetDigest",
    "globalStep",
    "maxSteps",
    "backend",
    "attention",
    "device",
    "quantization",
    "gpuSeconds",
)
"""Facts of the adapter's manifest that are parameters."""


def track(
    job: JobConfig,
    layout: Layout,
    target: PublishTargetRequest,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Send the results of the training. ``outcome`` gets the digest of what was sent.

    Raise TargetError or TrainerError. A run that was made stays.
    """
    place = target.mlflow
    assert place is not None
    with translate_volume_errors(layout.work, "tracking"):
        adapter, history = _results(job, layout, target.content)
    params, metrics = _params(job, adapter), _metrics(history, place.started)
    tags = {RUN_TAG: place.run, "finetune.dev/adapter": target.content, **place.tags}
    with Server(place, target.name, transfer, environment) as server:
        try:
            run = _Run(server, _experiment(server, place.experiment), place, target.version)
            run.log(params, metrics, tags)
            run.finish(adapter.facts.get("gpuSeconds"))
            if place.registered_model is not None and place.source is not None:
                _register(server, place.registered_model, place.source, run.id)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise TargetRejected(
                f"the tracking server {place.uri} gives no valid answer ({error!r}): check "
                f"{FIELD}.uri"
            ) from error
    text = json.dumps([params, metrics, tags, place.source], sort_keys=True)
    outcome.completed(place.uri, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def _results(job: JobConfig, layout: Layout, content: str) -> tuple[manifest.Manifest, LossHistory]:
    """Return the manifest of the adapter and the history of its training, both verified."""
    remedy = "set spec.rerun to a new value to train again"
    try:
        adapter = manifest.verify(
            layout.adapter, kind=published.ADAPTER, key=job.digest, hashes=False, sha256=content
        )
    except manifest.ManifestError as problem:
        raise ResumeRefused(f"{problem}, so it is not tracked: {remedy}") from problem
    entry = next((file for file in adapter.files if file.name == loss_history.FILE), None)
    if entry is None:
        return adapter, LossHistory()
    file = File(
        path=layout.adapter / entry.name,
        name=entry.name,
        size=entry.size,
        sha256=entry.sha256,
        remedy=remedy,
    )
    data = b"".join(file.read())
    file.require(hashlib.sha256(data).hexdigest())
    return adapter, LossHistory.parse(data)


def _params(job: JobConfig, adapter: manifest.Manifest) -> dict[str, str]:
    """Return the recipe and the facts of the training, as text."""
    values = dict(_flat("training", job.training.model_dump(mode="json", by_alias=True)))
    values |= {name: adapter.facts[name] for name in FACTS if adapter.facts.get(name) is not None}
    values |= {f"dataset.{path}": rows.source for path, rows in job.rows_of_training.items()}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
    return {
        _key(name): text for name, text in sorted(texts.items()) if 0 < len(text) <= LONGEST_VALUE
    }


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of a group by their paths, without those that are not set."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}", inner)
    elif value is not None:
        yield prefix, value


def _key(name: str) -> str:
    """Return a name of the characters that MLflow allows in one."""
    return "".join(
        character if character.isalnum() or character in "_-. /" else "-" for character in name
    )


def _metrics(history: LossHistory, started: int) -> list[dict[str, Any]]:
    """Return the points of all series. Their time is the same in each attempt."""
    return [
        {"key": name, "value": value, "timestamp": started + step, "step": step}
        for name, points in sorted(history.series.items())
        for step, value in points
        if math.isfinite(value)
    ]


def _experiment(server: Server, name: str) -> str:
    """Return the ID of an experiment, which is created unless it exists."""
    for _ in range(2):
        try:
            experiment = server.get("experiments/get-by-name", experiment_name=name)["experiment"]
        except Refused as error:
            if error.code != MISSING:
                raise
        else:
            if experiment.get("lifecycle_stage") == "deleted":
                raise TargetConflict(
                    f"the experiment {name!r} is deleted: restore it at the tracking server, or "
                    f"set {FIELD}.experiment to another name"
                )
            return str(experiment["experiment_id"])
        try:
            return str(server.post("experiments/create", name=name)["experiment_id"])
        except Refused as error:
            # Another client has created it meanwhile.
            if error.code != EXISTS:
                raise
    raise TargetRejected(f"the tracking server neither finds nor creates the experiment {name!r}")


class _Run:
    """The run of a training, which is created unless it exists."""

    def __init__(self, server: Server, experiment: str, place: MLflowTarget, name: str) -> None:
        self._server = server
        self._started = place.started

        def find() -> dict[str, Any] | None:
            runs = server.post(
                "runs/search",
                experiment_ids=[experiment],
                filter=f"tags.`{RUN_TAG}` = '{place.run}'",
                max_results=1,
                order_by=["attributes.start_time ASC"],
            ).get("runs")
            return {"run": runs[0]} if runs else None

        answer = find()
        self._existed = answer is not None
        if answer is None:
            answer = server.create(
                "runs/create",
                find,
                experiment_id=experiment,
                run_name=name,
                start_time=place.started,
                tags=[{"key": RUN_TAG, "value": place.run}],
            )
        run = answer["run"]
        self._info, self._data = run["info"], run.get("data") or {}
        self.id = str(self._info["run_id"])

    def log(
        self,
        params: Mapping[str, str],
        metrics: Sequence[Mapping[str, Any]],
        tags: Mapping[str, str],
    ) -> None:
        """Send what the run does not have yet. A parameter of a run cannot change."""
        present = {param["key"] for param in self._data.get("params") or ()}
        tagged = {tag["key"]: tag["value"] for tag in self._data.get("tags") or ()}
        sent = [{"key": key, "value": value} for key, value in params.items() if key not in present]
        changed = [
            {"key": key, "value": value} for key, value in tags.items() if tagged.get(key) != value
        ]
        points = [*self._missing(metrics)]
        for batch in _batches(sent, MOST_PARAMS):
            self._batch(params=batch)
        for batch in _batches(changed, MOST_PARAMS):
            self._batch(tags=batch)
        for batch in _batches(points, MOST_METRICS):
            self._batch(metrics=batch)

    def finish(self, seconds: float | None) -> None:
        """Mark the run as finished."""
        if self._info.get("status") != "FINISHED":
            ended = self._started + int((seconds or 0.0) * 1000)
            self._server.post("runs/update", run_id=self.id, status="FINISHED", end_time=ended)

    def _batch(self, **entries: Any) -> None:
        self._server.post("runs/log-batch", run_id=self.id, **entries)

    def _missing(self, metrics: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield the points that the run does not have: the server would keep both."""
        present: dict[str, set[int]] = {}
        for point in metrics:
            key = point["key"]
            if key not in present:
                present[key] = self._steps(key) if self._existed else set()
            if point["step"] not in present[key]:
                yield point

    def _steps(self, key: str) -> set[int]:
        steps: set[int] = set()
        page: dict[str, str] = {}
        for _ in range(MOST_PAGES):
            answer = self._server.get("metrics/get-history", run_id=self.id, metric_key=key, **page)
            steps |= {int(point.get("step") or 0) for point in answer.get("metrics") or ()}
            token = answer.get("next_page_token")
            if not token or token == page.get("page_token"):
                return steps
            page = {"page_token": str(token)}
        raise TargetRejected(
            f"the tracking server returns the history of {key} in more than {MOST_PAGES:,} pages: "
            f"check that {FIELD}.uri is the URL of an MLflow server"
        )


def _register(server: Server, model: str, source: str, run: str) -> None:
    """Register a version of a model unless there is one of this source and run."""
    try:
        server.post("registered-models/create", name=model)
    except Refused as error:
        if error.code != EXISTS:
            raise
    quoted = model.replace("'", "''")

    def find() -> dict[str, Any] | None:
        answer = server.get("model-versions/search", filter=f"name='{quoted}' and run_id='{run}'")
        versions = answer.get("model_versions") or ()
        return next((version for version in versions if version["source"] == source), None)

    if find() is None:
        server.create("model-versions/create", find, name=model, source=source, run_id=run)


def _batches(entries: Sequence[Any], size: int) -> Iterator[list[Any]]:
    left = iter(entries)
    while batch := list(islice(left, size)):
        yield batch
