"""The prepare stage: answers of the hub, sizes of the volume, and error messages."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.trainer import tiny
from tests.support.trainer.faults import RecordsStarts
from tests.support.trainer.hub import Hub
from tests.support.trainer.workshop import Ended, command, request
from tests.trainer.conftest import MakeWorkshop

from finetune_api.contracts.endpoint import source_digest
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.volume import disk
from finetune_trainer.volume.files import sha256_of

HERE = {"model": "tiny", "dataset": "rows"}
"""The repositories that most jobs use."""


def refused(ended: Ended, code: int, reason: str, *said: str) -> None:
    assert (ended.code, ended.result["outcome"], ended.result["reason"]) == (
        code,
        "failed",
        reason,
    ), ended.log
    for each in said:
        assert each in ended.message


@pytest.fixture(scope="module")
def gated(hub: Hub, repositories: dict[str, str]) -> Iterator[None]:
    chat, rows = hub.repos["models/demo/tiny"].folder, hub.repos["datasets/demo/rows"].folder
    hub.add("model", "demo/gated", chat, gated_with="hf_good")
    hub.add("dataset", "demo/gated", rows, gated_with="hf_other")
    yield
    del hub.repos["models/demo/gated"], hub.repos["datasets/demo/gated"]


def test_missing_model_is_refused(make: MakeWorkshop) -> None:
    workshop = make(model={"source": "hf://demo/missing"})
    ended = workshop.run("prepare")
    refused(ended, 66, "ModelNotFound", "model demo/missing does not exist", "model.tokenSecretRef")
    assert workshop.published() == []
    assert [path.name for path in workshop.work.iterdir()] == ["lock.json"]


def test_missing_dataset_is_reported_before_the_base_is_downloaded(
    make: MakeWorkshop, hub: Hub
) -> None:
    hub.requests.clear()
    ended = make(dataset={"source": "hf://demo/missing"}).run("prepare")
    refused(ended, 66, "DatasetNotFound", "dataset demo/missing does not exist")
    assert not any("resolve" in request for request in hub.requests)


CONFIGURATIONS = {"main": 24, "socratic": 25}
"""Two configurations of one dataset, with their numbers of rows."""
CARD = "---\nconfigs:\n" + "".join(
    f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
    for name in CONFIGURATIONS
)


@pytest.fixture(params=[CARD + "---\n# Problems\n", None], ids=["card", "folders"])
def configurations(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Iterator[str]:
    """A repository with two configurations, with and without a card."""
    for name, count in CONFIGURATIONS.items():
        tiny.dataset(tmp_path / name, tiny.rows(count), "train-00000-of-00001.jsonl")
    if request.param is not None:
        (tmp_path / "README.md").write_text(request.param)
    yield hub.add("dataset", "demo/problems", tmp_path)
    del hub.repos["datasets/demo/problems"]


def test_one_of_several_configurations_is_read(make: MakeWorkshop, configurations: str) -> None:
    workshop = make(dataset={"source": configurations, "config": "socratic", "format": "auto"})
    ended = workshop.run("prepare")
    assert ended.code == 0, ended.log
    facts = manifest.read(workshop.work / "dataset").facts
    record = {
        "dataset": "dataset",
        "config": "socratic",
        "commit": facts[published.ORIGINS_FACT]["dataset"]["commit"],
        "split": "train",
        "fileCount": 1,
        "files": ["socratic/train-00000-of-00001.jsonl"],
    }
    artifacts = ended.result["artifacts"]
    assert artifacts["sources"] == [record]
    assert artifacts["rows"] + artifacts["validationRows"] == CONFIGURATIONS["socratic"]
    assert facts["sources"] == [record]
    assert not list(workshop.work.glob(".writing-*"))


def test_several_configurations_are_refused_before_the_base_is_downloaded(
    make: MakeWorkshop, configurations: str, hub: Hub
) -> None:
    hub.requests.clear()
    workshop = make(dataset={"source": configurations})
    ended = workshop.run("prepare")
    refused(ended, 65, "DatasetInvalid", "main, socratic", "such as dataset.config: main")
    resolved = [request for request in hub.requests if "resolve" in request]
    assert all(request.endswith("/README.md") for request in resolved)
    assert [path.name for path in workshop.work.iterdir()] == ["lock.json"]


def test_too_large_card_is_refused(make: MakeWorkshop, hub: Hub, tmp_path: Path) -> None:
    tiny.dataset(tmp_path, tiny.rows(24))
    (tmp_path / "README.md").write_bytes(b"x" * ((8 << 20) + 1))
    source = hub.add("dataset", "demo/large-card", tmp_path)
    hub.requests.clear()
    ended = make(dataset={"source": source}).run("prepare")
    refused(ended, 65, "DatasetInvalid", "README.md of dataset demo/large-card has more than 8 MiB")
    assert not any("resolve" in request for request in hub.requests)


def test_missing_revision_is_refused(make: MakeWorkshop) -> None:
    ended = make(model={"revision": "v9"}).run("prepare")
    refused(ended, 66, "ModelNotFound", "model demo/tiny has no revision 'v9'", "model.revision")


def test_revision_of_the_spec_is_pinned(make: MakeWorkshop, hub: Hub) -> None:
    commits = {kind: hub.repos[f"{kind}s/demo/{name}"].commit() for kind, name in HERE.items()}
    workshop = make(**{kind: {"revision": commit} for kind, commit in commits.items()})
    hub.requests.clear()
    workshop.succeed("prepare")
    assert {each for each in hub.requests if "/revision/" in each} == {
        f"GET api/{kind}s/demo/{name}/revision/{commits[kind]}" for kind, name in HERE.items()
    }
    # The hub of the tests serves no file of a branch, so both revisions were pinned before.
    assert manifest.read(workshop.work / "base").facts["baseCommit"] == commits["model"]
    origin = manifest.read(workshop.work / "dataset").facts["origins"]["dataset"]
    assert origin["commit"] == commits["dataset"]


@pytest.mark.usefixtures("gated")
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_gated_repository_needs_a_token_with_access(make: MakeWorkshop, kind: str) -> None:
    workshop = make(**{kind: {"source": "hf://demo/gated"}})
    variable = f"{kind.upper()}_HF_TOKEN"
    ended = workshop.run("prepare")
    refused(ended, 77, "AccessDenied", f"{kind} demo/gated is gated", f"{kind}.tokenSecretRef")
    ended = workshop.run("prepare", **{variable: "hf_wrong"})
    refused(ended, 77, "AccessDenied", "has no access")
    good = {"model": "hf_good", "dataset": "hf_other"}[kind]
    assert workshop.run("prepare", **{variable: good}).code == 0
    assert good not in (workshop.folder / "log").read_text()


def test_failing_hub_is_transient(make: MakeWorkshop, hub: Hub) -> None:
    hub.refusing = 503
    try:
        ended = make().run("prepare")
    finally:
        hub.refusing = 0
    refused(ended, 75, "Transient", "the hub returned an error for dataset demo/rows", "503")


def test_damaged_download_is_repeated(make: MakeWorkshop, hub: Hub) -> None:
    workshop = make()
    shard = "model-00002-of-00002.safetensors"
    hub.corrupt.add(shard)
    try:
        ended = workshop.run("prepare")
    finally:
        hub.corrupt.clear()
    refused(ended, 75, "Transient", f"{shard} of model demo/tiny is damaged")
    assert workshop.published() == []
    hub.requests.clear()
    workshop.succeed("prepare")
    fetched = {request.split("/")[-1] for request in hub.requests if "GET demo/tiny" in request}
    assert shard in fetched
    assert "model-00001-of-00002.safetensors" not in fetched


WIDE = 16384
"""The intermediate size of a base of more than 10 MB."""


@pytest.mark.parametrize(
    ("kind", "name", "cut"),
    [("model", "model.safetensors", 7_000_001), ("dataset", "train.jsonl", 1_000)],
)
def test_download_is_resumed_after_a_kill(
    make: MakeWorkshop, hub: Hub, tmp_path: Path, kind: str, name: str, cut: int
) -> None:
    if kind == "model":
        folder = tiny.model(tmp_path / "large", shard="1GB", intermediate_size=WIDE)
    else:
        folder = tiny.dataset(tmp_path / "large", tiny.rows(60))
    workshop = make(**{kind: {"source": hub.add(kind, "demo/large", folder)}})
    size = (folder / name).stat().st_size
    hub.cuts[name] = [cut, 0, 0, 0, 0]
    try:
        running = workshop.start("prepare")
        parts = f".writing-*/.{name}.part"
        running.until(lambda: any(path.stat().st_size == cut for path in workshop.work.glob(parts)))
        running.process.kill()
        assert running.wait().code == -signal.SIGKILL
    finally:
        del hub.cuts[name]
    hub.ranges.clear()
    starts = RecordsStarts(path=workshop.folder / "starts")
    workshop.with_fault(starts).succeed("prepare")
    # Progress counts the bytes of this attempt only. Small files count as weights.
    of_rows, of_weights = starts.shares
    assert (of_weights if kind == "model" else of_rows) == pytest.approx(cut / size, abs=0.01)
    # Compare sets, because the server can receive the last request of the killed process late.
    assert {asked for file, asked in hub.ranges if file == name} == {f"bytes={cut}-"}
    assert size > cut
    if kind == "model":
        assert size > 10_000_000
        published = manifest.verify(workshop.work / "base", kind="base", key=None)
        digests = {entry.name: entry.sha256 for entry in published.files}
        assert digests[name] == sha256_of(folder / name)


def test_interrupted_hub_download_is_resumed(make: MakeWorkshop, hub: Hub, tmp_path: Path) -> None:
    folder = tiny.model(tmp_path / "cut", shard="1GB", intermediate_size=WIDE)
    workshop = make(model={"source": hub.add("model", "demo/cut", folder)})
    name = "model.safetensors"
    hub.cuts[name] = [3_000_000, 4_000_000]
    hub.ranges.clear()
    workshop.succeed("prepare")
    asked = [asked for file, asked in hub.ranges if file == name]
    assert asked == [None, "bytes=3000000-", "bytes=7000000-"]
    assert (workshop.work / "base" / name).read_bytes() == (folder / name).read_bytes()
    assert list(workshop.work.glob(".writing-*")) == []


def test_leftovers_are_deleted_if_the_base_is_published(
    make: MakeWorkshop, small_volume: Path
) -> None:
    workshop = make(work=small_volume)
    workshop.succeed("prepare")
    shutil.rmtree(small_volume / "dataset")
    for name in (".writing-base-of-another-commit", ".old-dataset"):
        (small_volume / name).mkdir()
        (small_volume / name / "left").write_bytes(bytes(500_000))
    assert disk.free_bytes(small_volume) < disk.RESERVE
    ended = workshop.succeed("prepare")
    assert "is already on the volume" in ended.log
    assert workshop.published() == ["base", "dataset"]


def test_published_base_stays_at_its_commit(make: MakeWorkshop, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "moving"
    shutil.copytree(hub.repos["models/demo/tiny"].folder, folder)
    workshop = make(model={"source": hub.add("model", "demo/moving", folder)})
    first = workshop.succeed("prepare").result["artifacts"]
    shutil.rmtree(workshop.work / "dataset")
    (folder / "NOTICE").write_text("a new commit")
    hub.requests.clear()
    second = workshop.succeed("prepare").result["artifacts"]
    # Its facts contain an estimate, which counts the bytes on the volume.
    assert second.pop("datasetManifest") != first.pop("datasetManifest")
    assert second == first
    assert not any("demo/moving" in request for request in hub.requests)


def test_invalid_rows_are_reported_before_the_weights_are_downloaded(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    rows = tiny.dataset(tmp_path / "broken", [*tiny.rows(3), {"instruction": "a"}])
    workshop = make(dataset={"source": hub.add("dataset", "demo/broken", rows)})
    hub.requests.clear()
    ended = workshop.run("prepare")
    refused(ended, 65, "DatasetInvalid", "row 4 of train.jsonl: has no column 'output'")
    assert workshop.published() == []
    assert not any(request.endswith(".safetensors") for request in hub.requests)


def test_tokenizer_of_another_model_is_refused(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(hub.repos["models/demo/tiny"].folder, folder)
    change_config(folder, vocab_size=50)
    ended = make(model={"source": hub.add("model", "demo/other", folder)}).run("prepare")
    refused(ended, 65, "DatasetInvalid", "the embedding of the base model has only 50 rows")


PROOF = "open({!r}, 'w')"
"""Python code that creates a file when it runs."""


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pickles", "has its weights only as pickles, which are never loaded"),
        ("gguf", "has GGUF files only"),
        ("no config", "has no config.json"),
        (
            "own code",
            "config.json requires Python code of the repository (auto_map), which the",
        ),
        (
            "own tokenizer",
            "tokenizer_config.json requires Python code of the repository (auto_map)",
        ),
        ("pickled adapter", "is an adapter, not a base: set model.source to the base model"),
        ("no language model", "of type 'vit', which is not the type of a causal language model"),
        ("quantized", "is already quantized (gptq)"),
        ("shard missing", "lists 'model-00002-of-00002.safetensors', which is not a safetensors"),
        ("shard torn", "model-00001-of-00002.safetensors of the model is not a valid safetensors"),
        ("escape", "lists '../../x.safetensors'"),
        (
            "another shape",
            "model.layers.0.mlp.gate_proj.weight is 256 × 64 in config.json, but 128 × 64",
        ),
        ("more layers", "the weights lack model.layers.2."),
        ("other layers", "targetModules contains gate_proj, which model demo/bad does not have"),
    ],
)
def test_unusable_base_is_refused(
    make: MakeWorkshop, hub: Hub, tmp_path: Path, change: str, said: str
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(hub.repos["models/demo/tiny"].folder, folder)
    first, second = sorted(folder.glob("model-*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if change in ("pickles", "gguf"):
        for path in (first, second, index):
            path.unlink()
        (folder / ("pytorch_model.bin" if change == "pickles" else "a.gguf")).touch()
    elif change == "no config":
        (folder / "config.json").unlink()
    elif change == "own code":
        change_config(folder, model_type="exotic", auto_map={"AutoModel": "x.Y"})
        (folder / "x.py").write_text(PROOF.format(str(tmp_path / "it ran")))
    elif change == "own tokenizer":
        path = folder / "tokenizer_config.json"
        own = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["x.X", "x.X"]}}
        path.write_text(json.dumps(json.loads(path.read_text()) | own))
        (folder / "tokenizer.json").unlink()
        (folder / "x.py").write_text(PROOF.format(str(tmp_path / "it ran")))
    elif change == "pickled adapter":
        for path in folder.iterdir():
            path.unlink()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.bin").touch()
    elif change == "no language model":
        change_config(folder, model_type="vit")
    elif change == "quantized":
        change_config(folder, quantization_config={"quant_method": "gptq"})
    elif change == "another shape":
        change_config(folder, intermediate_size=256)
    elif change == "more layers":
        change_config(folder, num_hidden_layers=3)
    elif change == "shard missing":
        second.unlink()
    elif change == "shard torn":
        first.write_bytes(first.read_bytes()[:-10])
    else:
        document = json.loads(index.read_text())
        names = document["weight_map"]
        if change == "escape":
            names["lm_head.weight"] = "../../x.safetensors"
            index.write_text(json.dumps(document))
        else:
            for path in (first, second):
                data = path.read_bytes().replace(b"gate_proj", b"door_proj")
                path.write_bytes(data)
    ended = make(model={"source": hub.add("model", "demo/bad", folder)}).run("prepare")
    refused(ended, 64, "InvalidSpec", said)
    assert not (tmp_path / "it ran").exists()


def test_code_of_a_known_model_family_is_not_run(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    """Many repositories contain code from before transformers supported their family."""
    folder = tmp_path / "known"
    shutil.copytree(hub.repos["models/demo/tiny"].folder, folder)
    change_config(
        folder, auto_map={"AutoConfig": "x.Config", "AutoModelForCausalLM": "x.ForCausalLM"}
    )
    (folder / "x.py").write_text(PROOF.format(str(tmp_path / "it ran")))
    workshop = make(model={"source": hub.add("model", "demo/known", folder)})
    workshop.prepare_and_train()
    assert not (workshop.work / "base" / "x.py").exists()
    assert not (tmp_path / "it ran").exists()


def test_only_the_weight_files_of_the_index_are_downloaded(
    make: MakeWorkshop, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    shutil.copytree(hub.repos["models/demo/tiny"].folder, folder)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "modeling_x.py", "README.md"):
        (folder / name).write_text("not wanted")
    workshop = make(model={"source": hub.add("model", "demo/more", folder)})
    workshop.succeed("prepare")
    assert {path.name for path in (workshop.work / "base").iterdir()} == {
        "manifest.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_dataset_is_read_from_a_configmap(make: MakeWorkshop, tmp_path: Path) -> None:
    mounted = tiny.dataset(tmp_path / "mounted", tiny.rows(8), "rows.jsonl")
    workshop = make(dataset={"source": "configmap://rows/rows.jsonl"})
    ended = workshop.run("prepare", FINETUNE_DATASET_DIR=str(mounted))
    assert ended.code == 0, ended.log
    assert ended.result["artifacts"]["rows"] == 8
    workshop = make(dataset={"source": "configmap://rows/other.jsonl"})
    ended = workshop.run("prepare", FINETUNE_DATASET_DIR=str(mounted))
    refused(ended, 66, "DatasetNotFound", "has the key 'other.jsonl'")


def resize(volume: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", volume], check=True)


def fill(volume: Path) -> None:
    with (volume / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"0" * 65536)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_too_small_volume_is_reported_with_sizes(make: MakeWorkshop, small_volume: Path) -> None:
    workshop = make(work=small_volume)
    (small_volume / "ballast").write_bytes(b"0" * 900_000)
    ended = workshop.run("prepare")
    refused(ended, 73, "VolumeFull", "model demo/tiny (226.8Ki in 2 safetensors files) needs")
    words = "are free on the volume (size: 17.0Mi): raise spec.storage.size by at least"
    assert words in ended.message
    assert workshop.published() == []
    resize(small_volume, "40m")
    workshop.succeed("prepare")


def test_volume_too_small_for_checkpoints_is_reported_before_the_download(
    make: MakeWorkshop, small_volume: Path
) -> None:
    workshop = make(work=small_volume, training={"lora": {"r": 512}})
    ended = workshop.run("prepare")
    refused(ended, 73, "VolumeFull", "base, checkpoints and merged model need about")
    assert "raise spec.storage.size by at least" in ended.message
    assert not list(small_volume.rglob("*.safetensors"))


def test_volume_that_fills_up_during_training_keeps_the_checkpoint(
    make: MakeWorkshop, small_volume: Path
) -> None:
    workshop = make(work=small_volume, training={"maxSteps": 400, "advanced": {"saveSteps": 1}})
    workshop.succeed("prepare")
    running = workshop.start("train")
    running.until(lambda: (workshop.work / "checkpoints" / "step-2").exists())
    fill(small_volume)
    ended = running.wait()
    refused(ended, 73, "VolumeFull", "the volume filled up while training", "spec.storage.size")
    assert "adapter" not in workshop.published()
    (small_volume / "ballast").unlink()
    assert manifest.valid(
        max((workshop.work / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:])),
        kind="checkpoint",
        key=None,
    )


def test_command_in_its_own_process_writes_the_termination_message(
    make: MakeWorkshop, hub: Hub
) -> None:
    """Run the command like the image: exit code, message, and only the expected requests."""
    workshop = make(dataset={"source": "hf://demo/missing"})
    message = workshop.folder / "message"
    hub.requests.clear()
    argument = request("prepare", workshop.folder / "job.json", workshop.work)
    words = [sys.executable, "-m", "finetune_trainer", argument]
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "FINETUNE_TERMINATION_LOG": str(message),
        "FINETUNE_METRICS_PORT": "off",
    }
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 66, ended.stderr
    assert json.loads(message.read_text())["reason"] == "DatasetNotFound"
    assert "prepare failed: DatasetNotFound: dataset demo/missing" in ended.stderr
    assert ended.stdout == ""
    assert set(hub.requests) == {"GET api/datasets/demo/missing/revision/main"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "job: Invalid JSON"),
        ('{"name": "a"}', "namespace: Field required"),
        (None, "cannot be read"),
    ],
)
def test_invalid_job_configuration_is_refused(
    make: MakeWorkshop, document: str | None, said: str
) -> None:
    workshop = make()
    path = workshop.folder / "job.json"
    path.unlink()
    if document is not None:
        path.write_text(document)
    refused(workshop.run("prepare"), 64, "InvalidSpec", said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "merge.build: Field required"),
        ({"build": "b", "novel": 1}, "merge.novel: Extra inputs are not permitted"),
        ({"build": "b", "contract": 4}, "merge.contract: Input should be 2 or 3"),
    ],
)
def test_invalid_request_is_refused(make: MakeWorkshop, fields: dict[str, Any], said: str) -> None:
    ended = make().run("merge", **fields)
    refused(ended, 64, "InvalidSpec", f"the stage request is invalid: {said}")
    assert ended.result["stage"] == "merge"


def replaced_arguments(
    words: list[str], _: list[str], environment: dict[str, str], log: str
) -> None:
    command(words, environment, log)


def test_arguments_of_an_earlier_operator_are_refused(make: MakeWorkshop) -> None:
    """Its record of the revision was lost, as with an older CRD."""
    words = ["train", "--config", "/etc/finetune/job.json", "--work", "/work"]
    ended = make().start("train", target=(replaced_arguments, words)).wait()
    refused(ended, 64, "InvalidSpec", "the trainer takes one argument", "instead of 5")
    assert ended.result["stage"] == "train"


def test_unknown_field_is_refused(make: MakeWorkshop) -> None:
    workshop = make()
    workshop.write(tiny.merged(workshop.job, {"training": {"newKnob": 1}}))
    refused(workshop.run("prepare"), 64, "InvalidSpec", "training.newKnob: Extra inputs")


def test_unexpected_error_becomes_internal_error(make: MakeWorkshop, tmp_path: Path) -> None:
    workshop = make()
    (workshop.work / "base").write_text("a file where a folder has to be")
    ended = workshop.run("prepare")
    refused(ended, 1, "InternalError", "NotADirectoryError")
    assert "Traceback" in ended.log
    assert "Traceback" not in ended.message


SHARED = {"name": "chat", "maxRank": 16, "model": "hf://demo/tiny"}
SLOW = "{% for a in messages %}{% for b in range(90000) %}{% endfor %}{{ a.content }}{% endfor %}"


def test_a_job_of_a_shared_endpoint_is_prepared(make: MakeWorkshop) -> None:
    workshop = make()
    workshop.succeed("prepare", endpoint=SHARED)
    base = manifest.read(workshop.work / "base")
    source = source_digest({each.name: each.sha256 for each in base.files})
    # Another name of the same files.
    make().succeed("prepare", endpoint=SHARED | {"source": source, "model": "pvc://models/tiny"})


@pytest.mark.parametrize(
    ("changes", "endpoint", "said"),
    [
        ({"training": {"lora": {"r": 32}}}, {}, "training.lora.r is 32"),
        ({}, {"model": "hf://demo/other"}, "model.source is hf://demo/tiny"),
        ({}, {"source": "0" * 64}, "the files of the base"),
        ({"dataset": {"chatTemplate": SLOW}}, {}, "the chat template needs"),
    ],
    ids=["rank", "base", "files", "template"],
)
def test_what_a_shared_endpoint_cannot_serve_is_refused(
    make: MakeWorkshop, changes: dict[str, Any], endpoint: dict[str, Any], said: str
) -> None:
    workshop = make(**changes)
    ended = workshop.run("prepare", endpoint=SHARED | endpoint)
    refused(ended, 64, "InvalidSpec", said)
    assert "dataset" not in workshop.published()


def test_only_jobs_of_a_shared_endpoint_need_a_fast_template(make: MakeWorkshop) -> None:
    make(dataset={"chatTemplate": SLOW}).succeed("prepare")
