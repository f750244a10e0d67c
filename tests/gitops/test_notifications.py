"""The examples for the notifications of Argo CD and Flux fit together, and to the health checks."""

import re
from typing import Any

import yaml
from tests.support.gitops import lua

GITOPS = lua.SCRIPTS.parents[3]
PAGES = GITOPS.parent / "docs" / "how-to"


def argo() -> dict[str, str]:
    """The data of the ConfigMap."""
    found: dict[str, str] = yaml.safe_load(
        (GITOPS / "argocd" / "argocd-notifications-cm.yaml").read_text()
    )["data"]
    return found


def parts(kind: str) -> dict[str, Any]:
    return {
        key.removeprefix(f"{kind}."): yaml.safe_load(text)
        for key, text in argo().items()
        if key.startswith(f"{kind}.")
    }


def flux() -> dict[str, Any]:
    documents = yaml.safe_load_all((GITOPS / "flux" / "notifications.yaml").read_text())
    return {each["kind"]: each for each in documents}


def test_every_trigger_sends_templates_that_exist_and_every_template_is_sent() -> None:
    triggers, templates = parts("trigger"), parts("template")
    assert len(argo()) == len(triggers) + len(templates)
    sent = {name for rules in triggers.values() for rule in rules for name in rule["send"]}
    assert sent == set(templates)
    assert all(rule["oncePer"] for rules in triggers.values() for rule in rules)


def test_triggers_use_the_states_of_the_health_check() -> None:
    health = (lua.SCRIPTS / "health.lua").read_text()
    for rules in parts("trigger").values():
        for rule in rules:
            (status,) = re.findall(r"health\.status == '(\w+)'", rule["when"])
            assert f'"{status}"' in health
            assert "#.group == 'finetune.dev' and #.kind == 'FineTuneJob'" in rule["when"]
            assert rule["when"].count("(") == rule["when"].count(")")


def test_blocks_of_the_templates_are_closed() -> None:
    for template in parts("template").values():
        text = template["message"]
        assert len(re.findall(r"{{(?:range|if) ", text)) == text.count("{{end}}")
        assert text.count("{{") == text.count("}}")


def test_the_page_subscribes_to_every_trigger() -> None:
    page = (PAGES / "notifications.md").read_text()
    subscribed = re.findall(r"notifications\.argoproj\.io/subscribe\.([\w-]+)\.slack", page)
    assert set(subscribed) == set(parts("trigger"))


def test_the_alert_of_flux_selects_the_kustomization_and_its_provider() -> None:
    objects = flux()
    alert, kustomization = objects["Alert"]["spec"], objects["Kustomization"]
    (source,) = alert["eventSources"]
    assert (source["kind"], source["name"]) == ("Kustomization", kustomization["metadata"]["name"])
    assert alert["providerRef"]["name"] == objects["Provider"]["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in objects.values()} == {"team-a"}
    for pattern in alert["inclusionList"]:
        assert re.search(pattern, "Health check passed in 1m")
        assert re.search(pattern, "health check failed after 30s: failed early due to stalled")


def test_flux_waits_with_the_expressions_of_the_page() -> None:
    page = (PAGES / "gitops.md").read_text()
    (block,) = re.findall(r"```yaml\n(healthCheckExprs:.*?)```", page, re.DOTALL)
    spec = flux()["Kustomization"]["spec"]
    assert spec["healthCheckExprs"] == yaml.safe_load(block)["healthCheckExprs"]
    assert spec["wait"] is True
