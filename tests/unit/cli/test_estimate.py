"""``ftj estimate``: warnings, and the exit codes of the cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.cli.test_ftj import JOB, shown
from tests.unit.trainer import shapes

from finetune_api.contracts.cost import expected
from finetune_cli import __main__ as ftj
from finetune_cli.offline import base_config
from finetune_trainer.errors import Transient


def warnings(
    folder: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], **spec: Any
) -> list[str]:
    (folder / "config.json").write_text(json.dumps(shapes.LLAMA3_8B | config))
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB | {"spec": JOB["spec"] | spec}))
    arguments = [
        "-f",
        str(folder / "job.yaml"),
        "--model",
        str(folder),
        "--card",
        "NVIDIA-H100-80GB-HBM3",
    ]
    assert ftj.main(["estimate", *arguments]) == 0
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("warning: ")]


def test_job_that_fits_gets_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = {"lora": {"modulesToSave": ["embed_tokens", "lm_head"]}}
    assert warnings(tmp_path, capsys, {}) == []
    large = {"size": "100Gi"}
    assert warnings(tmp_path, capsys, {}, training=modules, storage=large) == []


def test_embedding_and_head_that_are_one_tensor_cannot_be_trained_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tied = {"tie_word_embeddings": True}
    training = {"lora": {"modulesToSave": ["embed_tokens", "lm_head"]}}
    assert warnings(tmp_path, capsys, tied) == []
    large = {"size": "100Gi"}
    (found,) = warnings(tmp_path, capsys, tied, training=training, storage=large)
    assert "remove training.lora.modulesToSave" in found


@pytest.fixture
def estimated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that estimates a job for an 8B model; it returns code, stdout, stderr."""
    config, file = tmp_path / "config.json", tmp_path / "job.yaml"
    config.write_text(json.dumps(shapes.LLAMA3_8B))

    def estimate(*arguments: str, **spec: Any) -> tuple[int, str, str]:
        file.write_text(yaml.safe_dump(JOB | {"spec": JOB["spec"] | spec}))
        return shown(capsys, "estimate", "-f", str(file), "--model", str(config), *arguments)

    return estimate


def test_a_job_that_fits_ends_with_0(estimated: Any) -> None:
    code, out, err = estimated()
    assert (code, err) == (0, "")
    assert "NVIDIA-A10G" in out


def test_a_volume_that_is_too_small_ends_with_73(estimated: Any) -> None:
    code, out, err = estimated(storage={"size": "20Gi"})
    assert code == 73
    assert "volume" in out, "the table comes first"
    assert "but spec.storage.size is 20.0Gi: set spec.storage.size to at least " in err
    size = err.rstrip(".\n").rsplit(" ", 1)[1]
    assert estimated(storage={"size": size})[0] == 0
    below = f"{int(size.removesuffix('Gi')) - 1}Gi"
    assert estimated(storage={"size": below})[0] == 73


HALF = {"advanced": {"quantization": {"computeDtype": "float16"}}}


@pytest.mark.parametrize(
    ("card", "spec", "code", "said"),
    [
        ("Tesla-T4", {}, 64, "Tesla-T4 does not support bfloat16: set training.advanced."),
        (
            "Tesla-T4",
            {"training": HALF, "merge": {"dtype": "bfloat16"}},
            64,
            "the serving pods compute in bfloat16 (set by merge.dtype",
        ),
        ("Tesla-T4", {"training": HALF, "serving": {"enabled": False}}, 0, None),
        ("NVIDIA-A10G", {"merge": {"dtype": "bfloat16"}}, 0, None),
        ("Tesla-V100-SXM2-32GB", {}, 86, "has the compute capability 7.0"),
    ],
)
def test_a_recipe_that_the_card_cannot_compute_is_rejected_as_in_prepare(
    estimated: Any, card: str, spec: dict[str, Any], code: int, said: str | None
) -> None:
    found, out, err = estimated("--card", card, **spec)
    assert found == code, err
    assert "volume" in out, "the table comes first"
    if said is None:
        assert err == ""
    else:
        assert said in err


def test_an_unknown_card_ends_with_64(estimated: Any) -> None:
    code, out, err = estimated("--card", "NVIDIA-Imaginary")
    assert code == 64
    assert "volume" in out, "the table comes first"
    assert "GPU NVIDIA-Imaginary is not in the GPU table" in err
    assert "Known GPUs: " in err


@pytest.mark.parametrize(
    ("card", "suggested"),
    [
        ("H100", "NVIDIA-H100-PCIe or NVIDIA-H100-80GB-HBM3"),
        ("a6000", "NVIDIA-RTX-A6000"),
        ("NVIDIA-A100-SXM-80GB", "NVIDIA-A100-SXM4-80GB"),
    ],
)
def test_an_incomplete_name_of_a_card_ends_with_the_names_that_are_similar(
    estimated: Any, card: str, suggested: str
) -> None:
    code, _, err = estimated("--card", card)
    assert code == 64
    assert f"Did you mean {suggested}" in err
    assert "Known GPUs" not in err
    assert "Tesla" not in err


ROWS = ("--rows", "10000", "--tokens", "3000000")
PROFILES = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneProfile
metadata: {name: small}
spec:
  card: NVIDIA-L4
  price: {perGpuHour: "0.80", currency: EUR}
  defaults: {training: {sequenceLength: 1024}}
---
apiVersion: finetune.dev/v1alpha1
kind: FineTuneProfile
metadata: {name: free}
spec: {}
"""


def test_the_cost_of_training_is_a_range(estimated: Any) -> None:
    _, out, _ = estimated(*ROWS, "--json")
    low, high = expected(json.loads(out)["seconds"])
    code, out, _ = estimated(*ROWS, "--price", "0.80", "EUR")
    assert code == 0
    costs = f"{low * 0.8 / 3600:.2f} to {high * 0.8 / 3600:.2f}"
    assert out.endswith(f"\n\nTraining costs {costs} EUR, at 0.80 per GPU-hour\n")
    _, out, _ = estimated(*ROWS, "--price", "1", "EUR", runPolicy={"maxGpuSeconds": 360})
    assert "Training costs 0.10 to 0.10 EUR" in out


def test_a_job_gets_price_card_and_defaults_of_its_profile(estimated: Any, tmp_path: Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(PROFILES)
    options = (*ROWS, "--profile", str(file))
    _, out, _ = estimated(*options, profile="small")
    assert "EUR, at 0.80 per GPU-hour" in out
    assert "on NVIDIA-L4 " in out
    assert "1024 tokens per row" in out
    _, out, _ = estimated(*options, "--price", "1", "USD", profile="small")
    assert "USD, at 1 per GPU-hour" in out
    code, out, err = estimated(*options, profile="free")
    assert (code, err) == (0, "")
    assert "on NVIDIA-A10G " in out
    assert "Training costs" not in out
    code, _, err = estimated(*options, profile="other")
    assert "contains 0 FineTuneProfiles with the name other (spec.profile)" in err
    assert "contains 2 FineTuneProfiles: it must contain exactly one" in estimated(*options)[2]


def test_an_invalid_price_is_named(estimated: Any) -> None:
    code, _, err = estimated("--price", "cheap", "EUR")
    assert code == 64
    assert "--price: use a decimal number" in err
    assert "'cheap'" in err


def test_the_cost_is_unknown_without_the_duration(estimated: Any) -> None:
    assert "The cost of training is unknown" in estimated("--price", "1", "EUR")[1]


def test_a_price_has_an_amount_and_a_currency(estimated: Any) -> None:
    code, out, err = estimated("--price", "0.80")
    assert (code, out) == (2, "")
    assert "--price" in err
    code, out, err = estimated("--price", "0.80", "--json")
    assert (code, out) == (64, "")
    assert "--price.currency: " in err


def test_the_estimate_of_a_job_warns_if_its_profile_is_not_known(estimated: Any) -> None:
    code, out, err = estimated(profile="small")
    assert code == 0
    assert "4096 tokens per row" in out
    assert "the price of FineTuneProfile small (spec.profile) are not known: name its file" in err


@pytest.mark.parametrize(
    ("valid", "invalid", "error"),
    [
        ("sequenceLength", "sequenceLenght", "defaults.training.sequenceLenght: unknown field"),
        ("{training: {sequenceLength: 1024}}", "1024", "defaults: set a map (value: 1024)"),
        ("NVIDIA-L4", "4", "card: set a text, in quotes if it looks like a number (value: 4)"),
        ('"0.80"', "0.80", "price.perGpuHour: set a text, in quotes if it looks like a number"),
    ],
)
def test_an_invalid_field_of_a_profile_is_named(
    estimated: Any, tmp_path: Path, valid: str, invalid: str, error: str
) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(PROFILES.replace(valid, invalid))
    code, out, err = estimated("--profile", str(file), profile="small")
    assert (code, out) == (64, "")
    assert f"FineTuneProfile small: spec.{error}" in err


def test_without_a_connection_the_option_for_config_json_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(model: Any) -> Any:
        raise Transient("the hub is unreachable")

    monkeypatch.setattr(base_config, "download", unreachable)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    code, out, err = shown(capsys, "estimate", str(tmp_path / "job.yaml"))
    assert (code, out) == (75, "")
    assert "the hub is unreachable. Without a connection, name config.json" in err


ENDPOINT: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneEndpoint",
    "metadata": {"name": "chat"},
    "spec": {"model": {"source": "hf://acme/base"}},
}


@pytest.fixture
def of_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that estimates objects for an 8B model; it returns code, stdout, stderr."""
    config, file = tmp_path / "config.json", tmp_path / "endpoint.yaml"
    config.write_text(json.dumps(shapes.LLAMA3_8B))

    def estimate(*objects: dict[str, Any], arguments: tuple[str, ...] = ()) -> tuple[int, str, str]:
        file.write_text(yaml.safe_dump_all(objects))
        return shown(capsys, "estimate", "-f", str(file), "--model", str(config), *arguments)

    return estimate


def with_spec(document: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return document | {"spec": document["spec"] | spec}


def test_an_endpoint_shows_how_many_adapters_fit_each_gpu(of_endpoint: Any) -> None:
    code, out, err = of_endpoint(with_spec(ENDPOINT, lora={"maxAdapters": 20}))
    assert (code, err) == (0, "")
    assert "of which 20 generate at once" in out
    assert "for vLLM: fits" in out
    (line,) = (line for line in out.splitlines() if line.strip().startswith("NVIDIA-A10 "))
    assert "28" in line
    assert "64, the limit of an endpoint" in out


def test_an_endpoint_that_does_not_fit_ends_with_82_and_a_change_that_suffices(
    of_endpoint: Any,
) -> None:
    wanted = with_spec(ENDPOINT, lora={"maxAdapters": 60})
    code, out, err = of_endpoint(wanted)
    assert code == 82
    assert "DOES NOT FIT" in out
    assert "the endpoint needs about" in err
    active = int(err.split("lora.maxActive: ")[1].split(",")[0])
    assert of_endpoint(with_spec(wanted, lora={"maxAdapters": 60, "maxActive": active}))[0] == 0
    assert of_endpoint(with_spec(wanted, lora={"maxAdapters": 60, "maxActive": active + 1}))[0]


def test_a_shorter_request_is_proposed_if_it_suffices(of_endpoint: Any) -> None:
    wanted = with_spec(ENDPOINT, lora={"maxAdapters": 31})
    code, _, err = of_endpoint(wanted)
    assert code == 82
    length = int(err.split("maxModelLen: ")[1].split(",")[0])
    assert of_endpoint(with_spec(wanted, maxModelLen=length))[0] == 0


SHARED = {"mode": "shared", "endpointRef": {"name": "chat"}}


def test_a_shared_job_shows_the_endpoint_of_its_file(of_endpoint: Any) -> None:
    job = JOB | {"spec": JOB["spec"] | {"serving": SHARED}}
    code, out, err = of_endpoint(with_spec(ENDPOINT, lora={"maxAdapters": 3}), job)
    assert (code, err) == (0, "")
    assert "Training" in out
    assert "3 adapters up to rank 16" in out
    code, out, _ = of_endpoint(with_spec(ENDPOINT), job, arguments=("--json",))
    assert json.loads(out)["endpoint"]["slots"] == 9


def test_a_shared_job_alone_shows_an_endpoint_with_default_settings(of_endpoint: Any) -> None:
    job = JOB | {"spec": JOB["spec"] | {"serving": SHARED, "training": {"lora": {"r": 32}}}}
    code, out, _ = of_endpoint(job)
    assert code == 0
    assert "the file has no such endpoint" in out
    assert "8 adapters up to rank 32" in out


def test_two_jobs_and_their_endpoint_show_the_endpoint(of_endpoint: Any) -> None:
    job = JOB | {"spec": JOB["spec"] | {"serving": SHARED}}
    code, out, _ = of_endpoint(ENDPOINT, job, job | {"metadata": {"name": "other"}})
    assert code == 0
    assert out.startswith("FineTuneEndpoint chat")


def test_an_endpoint_with_a_fault_names_the_field(of_endpoint: Any) -> None:
    code, _, err = of_endpoint(with_spec(ENDPOINT, lora={"maxAdapters": 65}))
    assert code == 64
    assert "FineTuneEndpoint chat: lora.maxAdapters" in err
    code, _, err = of_endpoint(ENDPOINT, arguments=("--card", "NVIDIA-H1000"))
    assert code == 64
    assert "GPU NVIDIA-H1000 is not in the GPU table" in err
