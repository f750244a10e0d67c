"""Jobs with tools, with ShareGPT and with two datasets run from their rows to the trained adapter.

The rows are those of the examples. The jobs neither merge nor serve. ``make test`` runs the job
with two datasets, one of which is ShareGPT in a ConfigMap.
"""

from typing import Any

import pytest
import yaml
from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import REPOSITORY, Cluster, namespaces
from tests.support.local_cluster.tuning import DATASET, SMALL, Tuning

TRAINED_SECONDS = 1200.0
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of the test model does not write tools."""
ROLES = {"customer": "user", "agent": "assistant"}
SHAREGPT = {
    "source": "configmap://support-chats/rows.jsonl",
    "format": "sharegpt",
    "mapping": {"roles": ROLES},
}
CASES: dict[str, Object] = {
    "tools": {
        "dataset": {
            "source": "configmap://parcel-calls/rows.jsonl",
            "format": "auto",
            "chatTemplate": TOOLS_TEMPLATE,
        }
    },
    "sharegpt": {"dataset": {**SHAREGPT, "format": "auto"}},
    "datasets": {
        "datasets": [
            {**SHAREGPT, "name": "chats", "weight": 3, "validationFraction": 0.3},
            {
                "name": "packages",
                "source": DATASET,
                "format": "alpaca",
                "maxSamples": 10,
                "weight": 0.5,
            },
        ]
    },
}


def rows(example: str) -> Object:
    """Return the ConfigMap of an example."""
    documents = yaml.safe_load_all((REPOSITORY / "examples" / example).read_text("utf-8"))
    return next(each for each in documents if each["kind"] == "ConfigMap")


def spec(**data: Any) -> Object:
    """Return the spec of a job that ends after a few steps."""
    others = {key: value for key, value in SMALL.items() if key != "dataset"}
    training = {**SMALL["training"], "maxSteps": 3, "sequenceLength": 512}
    ended = {"merge": {"enabled": False}, "serving": {"enabled": False}}
    return {**others, "training": training, **ended, **data}


def trained(cluster: Cluster, name: str) -> Object:
    """Run the job of a case, and return the record of its revision."""
    tuning = Tuning(cluster=cluster, namespace=f"e2e-{name}", name=name)
    with namespaces(cluster, tuning.namespace):
        for example in ("tools.yaml", "sharegpt.yaml"):
            found = rows(example)
            found["metadata"]["namespace"] = tuning.namespace
            cluster.kubectl.apply(found)
        tuning.apply(spec(**CASES[name]))
        tuning.wait_until("Ready", reason="Completed", seconds=TRAINED_SECONDS)
        revision: Object = tuning.status()["revisions"][-1]
        return revision


@pytest.mark.exhaustive
def test_tools_reach_the_prompt_and_the_parser_is_suggested(cluster: Cluster) -> None:
    data = trained(cluster, "tools")["data"]
    assert [each["format"] for each in data["formats"]] == ["messages"]
    assert data["toolCallParser"] == "hermes"
    assert 0 < data["trainedTokens"] < data["trainTokens"]


@pytest.mark.exhaustive
def test_sharegpt_is_detected_and_its_roles_are_mapped(cluster: Cluster) -> None:
    data = trained(cluster, "sharegpt")["data"]
    assert [each["format"] for each in data["formats"]] == ["sharegpt"]
    assert data["rows"] == 3
    assert 0 < data["trainedTokens"] < data["trainTokens"]


def test_each_of_two_datasets_has_its_rows_and_its_losses(cluster: Cluster) -> None:
    revision = trained(cluster, "datasets")
    data = revision["data"]
    chats, packages = data["datasets"]
    held_out = [each["validationRows"] for each in (chats, packages)]
    assert sum(held_out) == data["validationRows"] > 0
    # With weight 2, each row is counted twice.
    assert chats["rows"] == 3 * (3 - held_out[0])
    assert packages["rows"] == round((10 - held_out[1]) / 2)
    evaluation = revision["artifacts"]["evaluation"]
    losses = {each["name"]: each for each in evaluation["datasets"]}
    evaluated = {f"datasets[{each['name']}]" for each in data["datasets"] if each["validationRows"]}
    assert losses.keys() == evaluated
    for each in losses.values():
        assert float(each["baseLoss"]) > 0
        assert float(each["loss"]) > 0
