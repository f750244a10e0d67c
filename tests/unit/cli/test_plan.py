"""``ftj plan`` against stored states: verdicts, texts, formats and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes import controllers
from tests.fakes.apiserver import CONFIG, Cluster, copied

from finetune_api import API_VERSION, KIND
from finetune_api.policy.readable_settings import FILE
from finetune_cli import __main__ as ftj
from finetune_operator.revisions import profiles

Object = dict[str, Any]
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
PROFILE: Object = {
    "apiVersion": API_VERSION,
    "kind": "FineTuneProfile",
    "metadata": {"name": "starter"},
    "spec": {
        "card": "NVIDIA-L4",
        "price": {"perGpuHour": "2.00", "currency": "EUR"},
        "limits": {"maxSequenceLength": 2048},
    },
}
BUDGET: Object = {
    "apiVersion": API_VERSION,
    "kind": "FineTuneBudget",
    "metadata": {"name": "vision"},
    "spec": {"currency": "EUR", "training": {"gpuHours": 200}},
    "status": {
        "namespaces": ["ns"],
        "training": {"gpuHours": {"limit": "200", "remaining": "10"}},
    },
}


def settings(**values: Any) -> Object:
    text = yaml.safe_dump({"version": "0.1.0", "digest": "0" * 64, **values})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "finetune-operator-settings"},
        "data": {FILE: text},
    }


class Desk:
    """A folder with a manifest and a stored state."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        (folder / "config.json").write_text(json.dumps(MODEL))

    def plan(self, job: Object, *state: Object, **options: Any) -> tuple[int, str]:
        """Return exit code and output of a plan. options: as --name value."""
        (self.folder / "job.yaml").write_text(yaml.safe_dump(job))
        (self.folder / "state.yaml").write_text(yaml.safe_dump_all(state))
        words = ["plan", str(self.folder / "job.yaml")]
        words += ["--state", str(self.folder / "state.yaml"), "-n", "ns"]
        words += ["--model", str(self.folder / "config.json")]
        for name, value in options.items():
            words += [f"--{name}", *([] if value is True else map(str, value))]
        code = ftj.main(words)
        said = self.capsys.readouterr()
        assert said.err == ""
        return code, said.out

    def facts(self, job: Object, *state: Object, **options: Any) -> Object:
        """Return the plan of the only job as JSON."""
        code, text = self.plan(job, *state, output=["json"], **options)
        document = json.loads(text)
        (found,) = document["jobs"]
        assert document["exitCode"] == found["exitCode"] == code
        return dict(found)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def running(*stages: str, **spec: Any) -> Object:
    """Return a job as the cluster has it after some stages."""
    metadata = {**PROFILE["metadata"], "generation": 1, "creationTimestamp": "2029-01-01T00:00:00Z"}
    profiles = {"starter": {**PROFILE, "metadata": metadata}}
    cluster = Cluster(spec={**SPEC, **spec}, config=CONFIG, profiles=profiles)
    for stage in stages:
        controllers.run(cluster, stage)
    if "merge" in stages:
        controllers.serve(cluster)
    cluster.settle()
    job: Object = copied(cluster.present_job())
    return job


SPEC: Object = {
    "model": {"source": "hf://org/model"},
    "dataset": {"source": "hf://org/rows", "format": "alpaca"},
}


def manifest(**spec: Any) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "demo"},
        "spec": {**SPEC, **spec},
    }


OWN: Object = {}
SHARED: Object = {"mode": "shared", "endpointRef": {"name": "chat"}}
DONE = ("prepare", "train", "merge")


def test_an_unchanged_job_is_harmless(desk: Desk) -> None:
    code, text = desk.plan(manifest(), running(*DONE), settings())
    assert code == 0
    assert "FineTuneJob ns/demo does not change" in text
    assert "1 job: 1 without training" in text


def test_a_written_default_changes_nothing(desk: Desk) -> None:
    found = desk.facts(manifest(training={"epochs": 3}), running(*DONE), settings())
    assert (found["exitCode"], found["changes"]) == (0, [])


def test_a_changed_default_of_the_chart_is_no_edit(desk: Desk) -> None:
    """The revision keeps the defaults with which it started."""
    changed = settings(defaults={"training": {"epochs": 5}})
    assert desk.facts(manifest(), running(*DONE), changed)["effects"] == ["nothing"]
    both = desk.facts(manifest(training={"seed": 7}), running(*DONE), changed)
    assert both["effects"] == ["retrain"]
    assert [(each["field"], each["written"]) for each in both["changes"]] == [
        ("training.epochs", False),
        ("training.seed", True),
    ]


def test_a_new_job_is_trained(desk: Desk) -> None:
    found = desk.facts(
        manifest(profile="starter", training={"sequenceLength": 1024}),
        PROFILE,
        settings(),
        rows=[8000],
        tokens=[800000],
    )
    assert (found["exitCode"], found["new"], found["trains"]) == (3, True, True)
    assert found["fit"] == {"answer": "yes", "reason": "fits NVIDIA-L4"}
    low, high = map(float, found["gpuHours"])
    assert 0 < low < high
    assert [float(each) for each in found["cost"]] == pytest.approx([2 * low, 2 * high], abs=0.02)
    assert found["currency"] == "EUR"


def test_an_edit_during_training_names_what_it_discards(desk: Desk) -> None:
    job = running("prepare")
    job["status"]["training"] = {
        "globalStep": 120,
        "maxSteps": 300,
        "lastCheckpointStep": 100,
    }
    job["status"]["revisions"][0] |= {"gpuSeconds": 1440}
    job["status"]["revisions"][0]["stages"][-1]["outcome"] = "Running"
    found = desk.facts(manifest(training={"seed": 7}), job, settings())
    assert found["effects"] == ["retrain"]
    assert found["discards"] == (
        f"Training of revision {job['status']['revision']} stops at step 120 of 300, after 0.40 "
        "GPU-hours; its checkpoint of step 100 is used only if you undo the edit."
    )


def test_an_undone_edit_returns_to_the_trained_revision(desk: Desk) -> None:
    cluster = Cluster(spec=SPEC, config=CONFIG)
    controllers.run_all(cluster)
    first = cluster.status["revision"]
    cluster.edit(training={"seed": 7})
    cluster.settle()
    second = cluster.status["revision"]
    found = desk.facts(manifest(), copied(cluster.present_job()), settings())
    assert (found["exitCode"], found["effects"]) == (0, ["nothing"])
    assert found["discards"] == f"The stage prepare of revision {second} is stopped."
    assert found["endpoint"] == "The endpoint is not affected."
    assert found["returns"] == (f"The job returns to revision {first}, which is trained already.")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"training": {"seed": 7}}, "down during training, merge and verification"),
        ({"serving": {"rollout": "KeepServing"}, "training": {"seed": 7}}, "training waits"),
        ({"merge": {"dtype": "bfloat16"}}, "down until the new pods are verified"),
        ({"serving": {"maxModelLen": 2048}}, "down while the new pod loads the model"),
        ({"serving": {"replicas": 0}}, "The endpoint stops."),
        ({"serving": {"enabled": False}}, "The endpoint stops."),
        ({"revisionHistoryLimit": 5}, "The endpoint is not affected."),
    ],
)
def test_the_endpoint_is_described(spec: Object, sentence: str, desk: Desk) -> None:
    assert sentence in desk.facts(manifest(**spec), running(*DONE), settings())["endpoint"]


def test_no_model_answers_during_the_first_training(desk: Desk) -> None:
    found = desk.facts(manifest(training={"seed": 7}), running("prepare"), settings())
    assert found["endpoint"].startswith("No model answers at present")


@pytest.mark.parametrize(
    ("training", "code"), [({}, 3), ({"sequenceLength": 1024}, 3), ({"sequenceLength": 4096}, 4)]
)
def test_limits_of_a_profile_are_checked_without_those_of_the_chart(
    training: Object, code: int, desk: Desk
) -> None:
    """A value that the job does not write can come from the chart, which is not known."""
    job = manifest(profile="starter", training={"seed": 7, **training})
    found = desk.facts(job, running(profile="starter"), PROFILE)
    assert found["exitCode"] == code


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (None, SHARED, "The FineTuneEndpoint chat serves the adapter after training."),
        (OWN, SHARED, "The present pods answer until the FineTuneEndpoint chat serves the"),
        (SHARED, OWN, "The FineTuneEndpoint chat serves the model until the new pods are"),
        (SHARED, {"enabled": False}, "The FineTuneEndpoint chat serves the model no longer."),
        (SHARED, SHARED, "The endpoint is not affected."),
        (
            SHARED,
            {**SHARED, "endpointRef": {"name": "other"}},
            "The FineTuneEndpoint other serves the adapter when it is verified there.",
        ),
    ],
)
def test_a_shared_endpoint_is_described(
    before: Object | None, after: Object, sentence: str, desk: Desk
) -> None:
    state = () if before is None else (running(serving=before),)
    found = desk.facts(manifest(serving=after), *state, settings())
    assert found["endpoint"].startswith(sentence)


def test_limits_of_the_chart_and_of_the_profile_reject(desk: Desk) -> None:
    strict = settings(policy={"maxReplicas": 1, "maxGpuSeconds": 60})
    job = manifest(profile="starter", training={"sequenceLength": 4096})
    found = desk.facts(job, PROFILE, strict)
    assert (found["exitCode"], found["policy"]["answer"]) == (4, "no")
    assert "chart value policy.maxGpuSeconds" in found["policy"]["reason"]
    assert "FineTuneProfile starter" in found["policy"]["reason"]


@pytest.mark.parametrize(
    ("newer", "named"),
    [({"maxNewThing": 5}, "maxNewThing"), ({"queues": {"prefer": ["a"]}}, "queues.prefer")],
)
def test_a_limit_of_a_later_version_is_unknown(newer: Object, named: str, desk: Desk) -> None:
    found = desk.facts(manifest(), settings(policy=newer))
    assert (found["exitCode"], found["policy"]["answer"]) == (3, "unknown")
    assert f"({named}): install ftj" in found["policy"]["reason"]
    strict = desk.facts(manifest(), settings(policy={**newer, "maxGpuSeconds": 60}))
    assert strict["policy"]["answer"] == "no", "the limits that are known still reject"


def test_a_job_that_does_not_fit_its_gpu_is_rejected(desk: Desk) -> None:
    training = {
        "sequenceLength": 32768,
        "effectiveBatchSize": 16,
        "advanced": {"microBatchSize": 16},
    }
    found = desk.facts(manifest(training=training), settings(), card=["NVIDIA-L4"])
    assert found["errors"] == []
    assert (found["exitCode"], found["fit"]["answer"]) == (4, "no")
    assert found["fit"]["reason"]


@pytest.mark.parametrize(
    ("hours", "answer", "code"), [(5, "yes", 3), (50, "waits", 3), (500, "no", 4)]
)
def test_budgets_are_compared_with_what_a_job_reserves(
    hours: int, answer: str, code: int, desk: Desk
) -> None:
    job = manifest(runPolicy={"maxGpuSeconds": hours * 3600})
    found = desk.facts(job, settings(), BUDGET)
    assert (found["budget"]["answer"], found["exitCode"]) == (answer, code)
    assert f"reserves {hours}.00 GPU-hours" in found["budget"]["reason"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"card": ["NVIDIA-A10G"]}, "unknown: set --rows and --tokens"),
        ({"card": ["NVIDIA-A10G"], "tokens": [9000]}, "unknown: set --rows"),
        ({"card": ["none"], "rows": [90], "tokens": [9000]}, "unknown: set --card"),
    ],
)
def test_an_unknown_time_names_only_the_options_that_are_missing(
    desk: Desk, options: Object, text: str
) -> None:
    _, said = desk.plan(manifest(), OWN, **options)
    (line,) = (line for line in said.splitlines() if "GPU time" in line)
    assert line.split(None, 2)[2].split(",")[0] == text


def test_what_cannot_be_read_is_unknown(desk: Desk) -> None:
    found = desk.facts(manifest())
    assert found["policy"]["answer"] == found["budget"]["answer"] == "unknown"
    assert found["cost"] is None
    assert "settings of the operator cannot be read" in found["warnings"][0]


def test_an_invalid_job_and_an_unknown_profile_are_errors(desk: Desk) -> None:
    found = desk.facts(manifest(suspend="no"), settings())
    assert (found["exitCode"], found["errors"]) == (
        64,
        ["spec.suspend: set true or false (value: 'no')"],
    )
    code, text = desk.plan(manifest(profile="other"), PROFILE, settings())
    assert code == 64
    assert "FineTuneJob ns/demo waits with the reason ProfileNotFound" in text


def test_an_unknown_profile_has_the_message_of_the_operator(desk: Desk) -> None:
    found = desk.facts(manifest(profile="other"), PROFILE, settings())
    job = {"spec": manifest(profile="other")["spec"]}
    unavailable = profiles.select(job, [], CONFIG).unavailable
    assert unavailable is not None
    assert found["errors"] == [str(unavailable)]
    assert unavailable.reason == "ProfileNotFound"


def test_a_removed_profile_is_planned_for_the_jobs_that_name_it(desk: Desk) -> None:
    job = running(*DONE, profile="starter", training={"sequenceLength": 1024})
    other = manifest()
    other["metadata"] = {"name": "other"}
    code, (found,) = plans(desk, PROFILE, job, other, settings(), former=[PROFILE])
    assert (code, found["indirect"], found["effects"]) == (0, True, ["nothing"])
    warning, caveat = found["warnings"]
    assert warning.startswith("There is no FineTuneProfile starter: the present revision continues")
    assert "kubectl apply does not" in caveat
    assert "ProfileNotFound" in markdown(desk, "--former", str(desk.folder / "former.yaml"))
    edited = manifest(profile="starter", training={"sequenceLength": 512})
    code, (found,) = plans(desk, PROFILE, job, settings(), former=[PROFILE], file=[edited])
    assert (code, found["trains"]) == (64, False)
    assert found["errors"][0].startswith("spec.profile: there is no FineTuneProfile starter.")
    code, (found,) = plans(desk, PROFILE, job, settings(), former=[PROFILE], file=[job, PROFILE])
    assert (code, found["warnings"]) == (0, []), "a profile in another file"


@pytest.mark.parametrize("ledger", [{"revisions": []}, {}], ids=["without records", "another"])
def test_an_edit_of_a_job_whose_former_profile_is_unknown_is_not_harmless(
    ledger: Object, desk: Desk
) -> None:
    job = running(*DONE)
    job["spec"] |= {"profile": "removed", "training": {"seed": 5}}
    job["status"] |= ledger
    found = desk.facts(manifest(training={"seed": 7}), job, settings())
    assert (found["exitCode"], found["effects"]) == (3, ["retrain"])
    assert "training.seed" in [each["field"] for each in found["changes"]]
    assert any("FineTuneProfile removed" in each for each in found["warnings"])


def test_a_profile_in_the_same_files_is_the_present_one(desk: Desk) -> None:
    (desk.folder / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    found = desk.facts(manifest(profile="starter"), settings(), file=[desk.folder / "profile.yaml"])
    assert found["errors"] == []
    assert found["fit"]["reason"] == "fits NVIDIA-L4"


def plans(desk: Desk, *state: Object, **files: list[Object]) -> tuple[int, list[Object]]:
    """Return exit code and plans of files. files: by the name of their option, at least file."""
    options: Object = {"output": ["json"], "state": [desk.folder / "state.yaml"]}
    (desk.folder / "state.yaml").write_text(yaml.safe_dump_all(state))
    for option, documents in files.items():
        options[option] = [desk.folder / f"{option}.yaml"]
        options[option][0].write_text(yaml.safe_dump_all(documents))
    words = [word for name, values in options.items() for word in (f"--{name}", *map(str, values))]
    code = ftj.main(["plan", *words, "-n", "ns", "--model", str(desk.folder / "config.json")])
    said = desk.capsys.readouterr()
    assert said.err == ""
    return code, list(json.loads(said.out)["jobs"])


def test_a_job_that_is_in_no_manifest_any_more_is_listed(desk: Desk) -> None:
    job = running("prepare")
    job["status"]["revisions"][0]["stages"][-1]["outcome"] = "Running"
    other = manifest()
    other["metadata"] = {"name": "other"}
    code, found = plans(desk, job, settings(), file=[other], former=[manifest(), other])
    assert (code, [each["name"] for each in found]) == (3, ["other", "demo"])
    removed = found[1]
    assert (removed["removed"], removed["effects"], removed["trains"]) == (True, [], False)
    assert removed["endpoint"] == "The endpoint stops."
    assert removed["discards"].startswith("Training of revision ")
    shared = manifest(serving=SHARED)
    code, (removed,) = plans(desk, former=[shared])
    assert code == 0
    assert removed["endpoint"] == "The FineTuneEndpoint chat serves the model no longer."
    text = markdown(desk, "--former", str(desk.folder / "former.yaml"))
    assert "FineTuneJob ns/demo is in no manifest any more" in text
    assert "Argo CD and Flux delete the job if they prune" in text
    assert "1 job: 1 removed" in text


def markdown(desk: Desk, *words: str) -> str:
    state = str(desk.folder / "state.yaml")
    ftj.main(["plan", *words, "--state", state, "-n", "ns", "--offline", "-o", "markdown"])
    return desk.capsys.readouterr().out


def with_profile(**spec: Any) -> Object:
    return {**PROFILE, "spec": {**PROFILE["spec"], **spec}}


def test_a_changed_profile_trains_no_job_again_but_its_limits_apply(desk: Desk) -> None:
    defaults = {"training": {"epochs": 1}}
    profile = with_profile(defaults=defaults)
    job = running(*DONE, profile="starter", training={"sequenceLength": 1024})
    code, (found,) = plans(desk, PROFILE, job, settings(), file=[profile])
    assert (code, found["indirect"], found["effects"]) == (0, True, ["nothing"])
    text = markdown(desk, "-f", str(desk.folder / "file.yaml"))
    assert "of which 1 with a changed profile do not change" in text.replace("\\", "")
    assert "####" not in text, "nothing that reviewers need to see"
    strict = with_profile(limits={"maxSequenceLength": 512})
    code, (found,) = plans(desk, PROFILE, job, settings(), file=[strict])
    assert (code, found["policy"]["answer"]) == (4, "no")
    assert "maxSequenceLength" in found["policy"]["reason"]
    default = {**strict, "metadata": {"name": "starter", "annotations": DEFAULT}}
    without = manifest(training={"sequenceLength": 1024})
    code, (found,) = plans(desk, PROFILE, without, settings(), file=[default])
    assert code == 4, "a default profile limits jobs that name none"
    assert plans(desk, PROFILE, manifest(), settings(), file=[strict]) == (0, [])
    text = markdown(desk, "-f", str(desk.folder / "file.yaml"))
    assert "No FineTuneJob uses the changed or removed profiles." in text


DEFAULT = {"finetune.dev/is-default-profile": "true"}


def test_the_state_without_a_status_keeps_the_defaults_of_its_profile(desk: Desk) -> None:
    """Manifests in Git have no status: the present revision has the former defaults."""
    old = with_profile(defaults={"training": {"epochs": 1}})
    new = with_profile(defaults={"training": {"epochs": 2}})
    job = manifest(profile="starter", training={"sequenceLength": 1024})
    code, (found,) = plans(desk, old, job, settings(), file=[new, job])
    assert (code, found["effects"], found["changes"]) == (0, ["nothing"], [])
    edited = manifest(profile="starter", training={"sequenceLength": 1024, "seed": 7})
    code, (found,) = plans(desk, old, job, settings(), file=[new, edited])
    assert (code, found["effects"]) == (3, ["retrain"])
    changed = [(each["field"], each["before"], each["after"]) for each in found["changes"]]
    assert ("training.epochs", 1, 2) in changed, "the new revision has the new defaults"


def test_the_status_of_another_version_is_one_error(desk: Desk) -> None:
    job = running(*DONE)
    job["status"]["revisions"][0]["stages"] = "none"
    found = desk.facts(manifest(), job, settings())
    assert found["exitCode"] == 64
    assert "install ftj in the version of the operator" in found["errors"][0]


def test_markdown_has_no_markup_of_a_manifest(desk: Desk) -> None:
    prompt = "a`|<b>@all {prompt}"
    job = manifest(dataset={**SPEC["dataset"], "promptFormat": prompt})
    _, text = desk.plan(job, running(*DONE), output=["markdown"])
    assert text.startswith("<!-- ftj plan -->\n### Plan of the fine-tuning jobs\n")
    row = next(line for line in text.splitlines() if "promptFormat" in line)
    assert row == "| `dataset.promptFormat` | `–` | `a'\\|<b>@all {prompt}` | `retrain` |"
    assert "@all" not in text.replace(row, "")


@pytest.mark.parametrize("columns", [40, 120])
def test_text_fits_the_terminal(columns: int, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, text = desk.plan(manifest(training={"seed": 7}), running(*DONE), settings())
    assert max(map(len, text.splitlines())) <= columns


STATES: dict[str, Object] = {
    "job": {**manifest(), "status": "none"},
    "revisions": {**manifest(), "status": {"revision": "a", "revisions": "none"}},
    "frozen": {
        **manifest(),
        "status": {
            "revision": "a",
            "revisions": [
                {
                    "revision": "a",
                    "frozen": {
                        "digest": "0" * 64,
                        "jobDigest": "0" * 64,
                        "operatorDigest": "0" * 64,
                        "operator": "{",
                    },
                }
            ],
        },
    },
    "number of revisions": {**manifest(), "status": {"revision": "a", "revisions": 5}},
    "metadata": {**manifest(), "metadata": {"name": ["demo"]}},
    "namespaces": {**BUDGET, "status": {"namespaces": 5}},
    "profile": {**PROFILE, "metadata": {"name": "starter", "annotations": "none"}},
    "defaults": {**PROFILE, "spec": {"defaults": ["none"]}},
    "unknown default": {**PROFILE, "spec": {"defaults": {"seed": 1}}},
    "price": {**PROFILE, "spec": {"price": {"perGpuHour": "cheap", "currency": "EUR"}}},
    "limits": {**PROFILE, "spec": {"limits": {"maxReplicas": "many"}}},
    "budget": {**BUDGET, "status": {"namespaces": ["ns"], "training": {"gpuHours": "few"}}},
    "settings": {**settings(), "data": {FILE: "policy: {maxReplicas: many}"}},
    "text": {**settings(), "data": {FILE: "{"}},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_another_form_causes_no_traceback(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest(profile="starter")))
    documents = [STATES[name]]
    if STATES[name]["kind"] != "FineTuneProfile":
        documents.append(PROFILE)
    (tmp_path / "state.yaml").write_text(yaml.safe_dump_all(documents))
    words = ["plan", str(tmp_path / "job.yaml"), "--state", str(tmp_path / "state.yaml")]
    code = ftj.main([*words, "--offline", "-n", "ns"])
    said = capsys.readouterr()
    assert code in (0, 1, 3, 4, 64)
    assert "Report it as a bug" not in said.err
    assert code == 1 or said.err == ""


def test_a_profile_that_cannot_be_read_is_unknown(desk: Desk) -> None:
    (desk.folder / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    found = desk.facts(manifest(profile="other"), settings(), file=[desk.folder / "profile.yaml"])
    assert found["errors"] == ["spec.profile: FineTuneProfile other cannot be read"]
