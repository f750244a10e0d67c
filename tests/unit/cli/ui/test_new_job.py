"""A job is made from the form: its fields, its manifest, its plan, and who may create it."""

import copy
import html
from typing import Any

import yaml
from aiohttp import ClientResponse
from tests.support.example_page import PREFIX, Objects
from tests.unit.cli.ui.conftest import Pages, Start

from clidocs.example_objects import JOBS
from finetune_cli.ui.reading import new_job
from finetune_cli.ui.reading.new_job import Field

FORM = {
    "name": "letters",
    "namespace": "team-a",
    "model.source": "hf://org/base-8b",
    "dataset.source": "hf://org/letters",
    "training.epochs": "2",
    "training.learningRate": "1e-4",
    "training.deterministic": "false",
    "serving.mode": "",
}


async def send(pages: Pages, path: str, **more: str) -> ClientResponse:
    return await pages.post(path, {**FORM, "csrf": pages.session.csrf, **more})


async def planned(pages: Pages, **more: str) -> str:
    answer = await send(pages, "/new", **more)
    assert answer.status == 200
    return html.unescape(await answer.text())


async def test_form_has_the_fields_of_the_api_server(start: Start, objects: Objects) -> None:
    (shared,) = objects["/openapi/v3/apis/finetune.dev"]
    schemas = copy.deepcopy({**shared})
    objects["/openapi/v3/apis/finetune.dev"] = [schemas]
    (schema,) = schemas["components"]["schemas"].values()
    fields: dict[str, Any] = schema["properties"]["spec"]["properties"]
    fields["fromALaterVersion"] = {"type": "integer", "description": "A field of later versions."}
    text = await (await start()).text("/new")
    names = ("model.source", "training.lora.r", "runPolicy.maxCost", "storage.size")
    for name in (*names, "fromALaterVersion"):
        assert f'name="{name}"' in text
    assert "A field of later versions." in text
    assert '<option value="small">small</option>' in text, "the profiles of the cluster"
    assert '<option value="chatml">' in text or '<option value="alpaca">' in text
    assert "Changing this field" not in text


async def test_manifest_has_what_was_written_with_its_types(start: Start) -> None:
    text = await planned(await start())
    assert "FineTuneJob team-a/letters is created, and trained as revision" in text
    manifest = yaml.safe_load("apiVersion" + text.partition("apiVersion")[2].partition("</pre>")[0])
    assert manifest["spec"] == {
        "model": {"source": "hf://org/base-8b"},
        "dataset": {"source": "hf://org/letters"},
        "training": {"epochs": 2, "learningRate": 0.0001, "deterministic": False},
    }
    assert "Create the job" in text


async def test_mistake_is_named_and_nothing_can_be_created(start: Start) -> None:
    text = await planned(await start(), **{"training.epochs": "many"})
    assert "not valid" in text
    assert "spec.training.epochs" in text
    assert "Create the job" not in text


async def test_job_is_created(start: Start) -> None:
    pages = await start()
    answer = await send(pages, "/new/create")
    assert answer.status == 303
    assert answer.headers["Location"] == f"{PREFIX}/jobs/team-a/letters"
    text = await pages.text("/jobs/team-a/letters/yaml")
    assert "epochs: 2" in text
    assert "FineTuneJob letters exists already" in await planned(pages)


async def test_jobs_of_git_are_not_created_here(start: Start, objects: Objects) -> None:
    keys = {"argocd.argoproj.io/tracking-id": "tuning:finetune.dev/FineTuneJob:team-a/velmora"}
    objects[JOBS][-1]["metadata"]["annotations"] = keys
    pages = await start()
    text = await planned(pages)
    assert "Argo CD applies the jobs of namespace team-a from Git" in text
    assert "Create the job" not in text
    answer = await send(pages, "/new/create")
    assert answer.status == 502
    assert "add the manifest to its repository" in await answer.text()


def test_empty_fields_are_left_out() -> None:
    fields = [
        Field(path=("a", "b"), type="integer", about=""),
        Field(path=("c",), type="string", about=""),
    ]
    manifest = new_job.manifest_of(fields, {"a.b": " 3 ", "c": "", "unknown": "x"}, "team-b")
    assert manifest["spec"] == {"a": {"b": 3}}
    assert manifest["metadata"] == {"name": "", "namespace": "team-b"}
