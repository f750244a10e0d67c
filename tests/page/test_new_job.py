"""A job from the form to its page."""

from playwright.sync_api import expect
from tests.page.conftest import Site, Visitor


def test_job_is_created_from_the_form(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    page.get_by_role("link", name="New job").click()
    for name, value in (
        ("name", "letters"),
        ("model.source", "hf://org/base-8b"),
        ("dataset.source", "hf://org/letters"),
        ("training.epochs", "2"),
    ):
        page.locator(f"input[name='{name}']").fill(value)
    page.locator("select[name=profile]").select_option("small")
    page.locator("input[name=download]").uncheck()
    page.get_by_role("button", name="Show manifest and plan").click()
    expect(page.locator("#plan")).to_contain_text("letters is created, and trained as revision")
    expect(page.locator("#manifest")).to_contain_text("profile: small")
    page.get_by_role("button", name="Create the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("letters")
    assert page.url == f"{site.address}jobs/team-a/letters"
    assert visitor.problems == []
