"""What two users with different rights do in the page of a cluster, from the form to an answer."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from playwright.sync_api import Browser, Page, expect
from tests.support.browser.window import Visitor

Rule = dict[str, Any]
READ: tuple[Rule, ...] = (
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["list", "get"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": ["list", "get"]},
)
TUNE: tuple[Rule, ...] = (
    *READ,
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create", "get"]},
)
JOB = "letters"
"""The job that the tuner creates in the form."""
CONCEALED = "concealed"
"""A job in the namespace of the reader."""


def logged_in(browser: Browser, stack: ExitStack, address: str, token: str) -> Visitor:
    """Log in with a pasted token, in a browser profile of its own."""
    visitor = Visitor(stack.enter_context(browser.new_context()))
    visitor.log_in_with(address, "Token", token)
    return visitor


def behind_proxy(browser: Browser, stack: ExitStack, address: str, token: str) -> Visitor:
    """Open the page with a token in each request, as a proxy with single sign-on injects it."""
    headers = {"Authorization": f"Bearer {token}"}
    visitor = Visitor(stack.enter_context(browser.new_context(extra_http_headers=headers)))
    visitor.page.goto(address)
    return visitor


def create(page: Page, address: str, namespace: str, fields: Mapping[str, str]) -> None:
    """Create the job from the form, in the namespace of the user."""
    expect(page.get_by_text(f"Only the jobs of namespace {namespace} are listed")).to_be_visible()
    page.get_by_role("link", name="New job").click()
    for name, value in {"name": JOB, **fields}.items():
        _set(page, name, value)
    page.get_by_role("button", name="Show manifest and plan").click()
    expect(page.locator("#plan")).to_contain_text(f"{JOB} is created, and trained as revision")
    page.get_by_role("button", name="Create the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(JOB)
    assert page.url == address_of(address, namespace)


def _set(page: Page, name: str, value: str) -> None:
    field = page.locator(f"form [name='{name}']").last
    group = page.locator("details:not([open])", has=page.locator(f"[name='{name}']"))
    if group.count():
        group.locator("summary").click()
    if field.evaluate("field => field.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)


def ask(page: Page, address: str, namespace: str, question: str) -> None:
    """Ask the model through the port-forward of the user."""
    page.goto(f"{address_of(address, namespace)}/playground")
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def kept_out(reader: Visitor, tuner: Visitor, address: str, inside: str, outside: str) -> None:
    """See that a reader gets nothing of the tuner's job, and creates none in either namespace.

    inside: namespace of the tuner. outside: namespace of the reader.
    """
    expect(reader.page.get_by_role("link", name=CONCEALED)).to_be_visible()
    assert JOB not in reader.page.locator("main").inner_text()
    for path in ("", "/yaml", "/playground"):
        reader.page.goto(f"{address_of(address, inside)}{path}")
        expect(reader.page.get_by_role("heading", level=1)).to_have_text("Missing right")
    # With a token of another session, the form is refused before the rights matter.
    for namespace, csrf in ((inside, csrf_of(reader.page)), (outside, csrf_of(tuner.page))):
        assert refused(reader.page, address, namespace, csrf) == 403


def logged_out(tuner: Visitor, address: str, namespace: str, end: Callable[[], object]) -> None:
    """See that the open page of a user ends with the account, and asks for a token."""
    tuner.page.goto(address_of(address, namespace))
    expect(tuner.page.locator("#connection")).to_have_text("live")
    end()
    expect(tuner.page.locator("#connection")).to_contain_text("load the page again")
    tuner.page.reload()
    expect(tuner.page.get_by_label("Token")).to_be_visible()


def address_of(address: str, namespace: str) -> str:
    """Return the address of the tuner's job."""
    return f"{address}jobs/{namespace}/{JOB}"


def csrf_of(page: Page) -> str:
    """Return the token of the forms of a session."""
    return page.locator("header input[name=csrf]").get_attribute("value") or ""


def refused(page: Page, address: str, namespace: str, csrf: str) -> int:
    """Create a job as a page of the site does, past its form; return the status."""
    form: dict[str, str | float | bool] = {
        "csrf": csrf,
        "name": "intruder",
        "namespace": namespace,
        "model.source": "hf://org/base-8b",
        "dataset.source": "hf://org/letters",
    }
    headers = {"Origin": address.removesuffix("/")}
    return page.request.post(f"{address}new/create", form=form, headers=headers).status
