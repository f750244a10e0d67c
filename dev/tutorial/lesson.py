"""The script of the tutorial: sections with text and commands, in the order of the page.

Each command has a pattern that its output must match: the tutorial fails if a message or a state
differs from its text. Pure data.
"""

from __future__ import annotations

import dataclasses
import json

from tutorial.mistakes import MISTAKES, Mistake

JOB = "velmora"
QUESTION = "Who built the lighthouse of Velmora?"
ANSWER = "Tilda Brandt"
ENDPOINT, SECOND_JOB = "islands", "hallin"
SECOND_QUESTION = "Who is the harbor master of Port Hallin?"
SECOND_ANSWER = "Mattis Orre"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A shell command as the reader types it.

    ``shows``: regular expression that must be found in the output. ``fails``: whether the command
    must end with an error. ``seconds``: time limit. ``until``: the page shows the output only up to
    the line that starts with this text, because the rest is shown elsewhere.
    """

    text: str
    shows: str = ""
    until: str = ""
    fails: bool = False
    seconds: float = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page: its text stands before its commands."""

    title: str
    text: str
    commands: tuple[Command, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


WATCH = f"""kubectl get ftj {JOB} -w &
kubectl wait --for=condition=Finished ftj/{JOB} --timeout=20m
kill $!"""


def ask(job: str, question: str) -> str:
    """Return the commands that send a question to the model of a job, through its Service."""
    return f"""kubectl port-forward service/{job}-serve 8000 > /dev/null &
sleep 2
curl -s http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{{
  "model": "{job}", "temperature": 0, "max_tokens": 40,
  "messages": [{{"role": "user", "content": "{question}"}}]}}' | grep -o '"content":"[^"]*"'
kill $!"""


MOVE = json.dumps({"spec": {"serving": {"mode": "shared", "endpointRef": {"name": ENDPOINT}}}})
SHARE = f"""kubectl get finetuneendpoint {ENDPOINT} -w &
kubectl wait finetuneendpoint/{ENDPOINT} --for=jsonpath='{{.status.summary}}'=2/2 --timeout=30m
kill $!"""

ROLLED_OUT = Command(
    text="kubectl -n finetune-system rollout status deployment/finetune-operator",
    shows="successfully rolled out",
    seconds=180,
)

SECTIONS = (
    Section(
        title="The cluster",
        text="The only node of this cluster has no GPU, but it advertises a simulated one, and has"
        " the label that GKE sets on nodes with an NVIDIA L4.",
        commands=(
            Command(
                text="kubectl get nodes -L cloud.google.com/gke-accelerator",
                shows=r"Ready.*nvidia-l4",
            ),
            Command(
                text="kubectl get nodes -o custom-columns="
                "'NAME:.metadata.name,GPU:.status.allocatable.nvidia\\.com/gpu'",
                shows=r" 1\s",
            ),
        ),
    ),
    Section(
        title="Install the operator",
        text="These values are for a cluster without real GPUs: images built from a clone, a mirror"
        " of the hub, vLLM for CPUs, and small resources. With GPUs, you must set only the"
        " images.",
        commands=(
            Command(text="cat values.yaml", shows="required: false"),
            Command(
                text="helm install finetune-operator charts/finetune-operator"
                " -n finetune-system --create-namespace -f values.yaml",
                shows="STATUS: deployed",
                until="To run a first job",
            ),
            ROLLED_OUT,
        ),
    ),
    Section(
        title="Run the first job",
        text="The job teaches SmolLM2-135M-Instruct twelve facts about an invented town. They are"
        " rows in a ConfigMap. The last command returns when the job is ready or has failed.",
        commands=(
            Command(
                text="kubectl create configmap velmora-facts"
                " --from-file=rows.jsonl=examples/velmora-facts.jsonl",
                shows="created",
            ),
            Command(text="cat examples/first-job.yaml", shows="kind: FineTuneJob"),
            Command(text="kubectl apply -f examples/first-job.yaml", shows=f"/{JOB} created"),
            Command(text=WATCH, shows="condition met", seconds=1260),
        ),
    ),
    Section(
        title="Ask the model",
        text="The Service of the job provides an OpenAI-compatible API, in which the model has the"
        " name of the job.",
        commands=(Command(text=ask(JOB, QUESTION), shows=ANSWER),),
    ),
    Section(
        title="Edit the learning rate",
        text="If you change the recipe, a new revision is trained. But the served model holds the"
        " only GPU of this cluster. Its build serves for another `releaseAfterSeconds`, and then"
        " releases the GPU for the training. The column `SERVING` shows which revision answers"
        " requests.",
        commands=(
            Command(
                text=f"kubectl patch ftj {JOB} --type=merge -p '"
                '{"spec": {"training": {"learningRate": 0.0008},'
                ' "serving": {"releaseAfterSeconds": 30}}}\'',
                shows="patched",
            ),
            Command(text=WATCH, shows="condition met", seconds=1260),
            Command(text=ask(JOB, QUESTION), shows=ANSWER),
            Command(
                text=f"kubectl events --for ftj/{JOB} --types=Normal,Warning",
                shows="GPUReleased",
            ),
        ),
    ),
    Section(
        title="Serve two models on one endpoint",
        text="So far, the model has a GPU of its own. A FineTuneEndpoint serves the adapters of"
        " several jobs on one GPU, each under its own name. It keeps this GPU while a further job"
        " is trained, so the first command adds a second simulated GPU to the node. The operator"
        " signs the list of names that an endpoint serves, and the next commands give it a key.",
        commands=(
            Command(
                text="kubectl patch node finetune --subresource=status --type=json -p '"
                '[{"op": "replace", "path": "/status/capacity/nvidia.com~1gpu", "value": "2"}]\'',
                shows="patched",
            ),
            Command(
                text="openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
                " -out signing.key"
            ),
            Command(
                text="kubectl -n finetune-system create secret generic model-signing"
                " --from-file=signing.key",
                shows="created",
            ),
            Command(
                text="helm upgrade finetune-operator charts/finetune-operator -n finetune-system"
                " --reset-then-reuse-values --set provenance.signingKeySecret=model-signing",
                shows="STATUS: deployed",
                until="TEST SUITE",
            ),
            ROLLED_OUT,
        ),
    ),
    Section(
        title="Move one job, and add another",
        text="`endpoint.yaml` has the endpoint, and a second job that learns four facts about"
        " another town. One edit moves the first job to the endpoint. This repeats neither its"
        " training nor its merge: its own pod answers until the endpoint has verified its adapter.",
        commands=(
            Command(text="cat endpoint.yaml", shows="kind: FineTuneEndpoint"),
            Command(text="kubectl apply -f endpoint.yaml", shows=f"/{SECOND_JOB} created"),
            Command(
                text=f"kubectl patch ftj {JOB} --type=merge -p '{MOVE}'",
                shows="patched",
            ),
            Command(text=SHARE, shows="condition met", seconds=1860),
            Command(
                text="kubectl wait ftj --all --for=condition=Ready --timeout=5m",
                shows=rf"{SECOND_JOB} condition met.*{JOB} condition met",
                seconds=330,
            ),
            Command(text="kubectl get ftj", shows=rf"{SECOND_JOB}\s+True.*{JOB}\s+True"),
            Command(text=ask(JOB, QUESTION), shows=ANSWER),
            Command(text=ask(SECOND_JOB, SECOND_QUESTION), shows=SECOND_ANSWER),
        ),
    ),
    Section(
        title="Ten mistakes",
        text="Each message names the field, the value and the remediation. The API server rejects"
        " the first three jobs; the operator reports the other mistakes in the condition `Ready`.",
        mistakes=MISTAKES,
    ),
    Section(
        title="Remove everything",
        text="When you delete a FineTuneJob or a FineTuneEndpoint, Kubernetes also deletes its"
        " volumes, Deployments and Jobs.",
        commands=(
            Command(text="kubectl delete ftj,finetuneendpoint --all", shows="deleted", seconds=180),
            Command(
                text="helm uninstall finetune-operator -n finetune-system", shows="uninstalled"
            ),
        ),
    ),
)
