"""The pages in a browser: login, filters, updates, keyboard, accessibility, and narrow screens."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect
from tests.page.conftest import Site, Visitor, served
from tests.support.example_page import Objects

from clidocs.example_jobs import EARLIER, PRESENT
from clidocs.example_objects import JOBS
from finetune_cli.ui.views import VIEWS

JOB = "jobs/team-a/velmora"
PATHS = [
    *(
        f"jobs/team-a/velmora{view.pattern.rpartition('}')[2]}"
        if "{" in view.pattern
        else view.pattern.removeprefix("/")
        for view in VIEWS
        if not view.pattern.endswith("/diff")
    ),
    f"{JOB}/diff?first={EARLIER}&second={PRESENT}",
    "jobs/team-a/support",
    "jobs/team-a/billing",
    "jobs/team-a/absent",
]
ABSENT = "404 (Not Found)"
"""What a browser logs about the page of an object that does not exist."""


def test_login_by_the_code_of_the_terminal(site: Site, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(site.address)
    code = page.get_by_label("One-time code")
    expect(code).to_be_focused()
    code.fill("AAAAAA-AAAAAA-AAAAAA-AAAAAA")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("This is not the code")).to_be_visible()
    visitor.log_in(site)
    expect(page.get_by_role("heading", name="FineTuneJobs")).to_be_visible()
    assert page.url == site.address, "the code is not part of an address"
    (cookie,) = visitor.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    stored = "[document.cookie, localStorage.length, sessionStorage.length]"
    assert page.evaluate(stored) == ["", 0, 0]
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    page.goto(site.address)
    expect(page.get_by_label("One-time code")).to_be_visible()


def test_list_is_filtered_and_has_an_address(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    names = page.locator("#jobs tbody th")
    expect(names).to_have_text(["billing", "support", "velmora"])
    page.get_by_label("Text").fill("cuda")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["support"])
    page.goto(f"{site.address}?state=ready")
    expect(names).to_have_text(["velmora"])
    expect(page.get_by_label("State")).to_have_value("ready")
    names.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("velmora")
    page.go_back()
    expect(names).to_have_text(["velmora"])


def test_long_message_does_not_break_names_and_states(site: Site, visitor: Visitor) -> None:
    site.change(f"{JOBS}/support", {"status": {"summary": "needs a word more " * 20}})
    page = visitor.log_in(site)
    row = page.get_by_role("row").filter(has_text="needs a word more")
    for place in (row.get_by_role("link"), row.locator(".state")):
        height = box_of(place)["height"]
        assert height < 30, "one line"


def test_pages_follow_the_cluster(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    expect(page.locator("#connection")).to_have_text("live")
    text = page.get_by_label("Text")
    text.fill("half a word")
    row = page.get_by_role("row").filter(has_text="billing")
    expect(row.locator(".state")).to_have_text("Unschedulable")
    become(site, "Training", "The train pod is training the adapter.")
    expect(row.locator(".state")).to_have_text("Training")
    # An update leaves alone what the user types.
    expect(text).to_have_value("half a word")
    page.goto(f"{site.address}jobs/team-a/billing")
    state = page.locator("#state")
    expect(state).to_contain_text("The train pod is training the adapter.")
    become(site, "Preempted", "Another job has taken the GPU.")
    expect(state).to_contain_text("Another job has taken the GPU.")
    expect(page.get_by_role("status")).to_contain_text("Preempted")
    assert visitor.problems == []


def test_part_with_the_focus_is_updated_when_the_user_leaves_it(
    site: Site, visitor: Visitor
) -> None:
    page = visitor.log_in(site)
    expect(page.locator("#connection")).to_have_text("live")
    link = page.get_by_role("link", name="billing")
    link.focus()
    become(site, "Training", "The train pod is training the adapter.")
    page.wait_for_timeout(1000)
    expect(link).to_be_focused()
    assert page.locator("#jobs").get_by_text("Unschedulable").count() == 1
    page.get_by_label("Text").focus()
    expect(page.locator("#jobs").get_by_text("Training", exact=True)).to_be_visible()


def become(site: Site, reason: str, message: str) -> None:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": message}
    site.change(f"{JOBS}/billing", {"status": {"conditions": [condition]}})


def test_job_is_understood_at_a_glance(site: Site, visitor: Visitor) -> None:
    """Which revision serves, whether it is verified, what it cost, and why another job waits."""
    page = visitor.log_in(site)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{site.address}{JOB}")
    glance = page.locator("#glance")
    for words in (PRESENT, "Verified", "0.82 EUR", "1.9294"):
        expect(glance.get_by_text(words).last).to_be_in_viewport()
    expect(page.locator("#state .state")).to_have_text("Serving")
    chart = page.get_by_role("img", name="Training loss and held-out loss")
    expect(chart.locator("polyline")).to_have_count(2)
    stages = page.locator("#stages svg rect.bar")
    expect(stages).to_have_count(3)
    ends = [box["x"] + box["width"] for box in map(box_of, stages.all())]
    begins = [box["x"] for box in map(box_of, stages.all())]
    assert ends[:-1] == pytest.approx(begins[1:], abs=2), "one stage begins where another ends"
    page.goto(f"{site.address}jobs/team-a/billing")
    for words in ("Unschedulable", "0/1 nodes are available", "What to do"):
        expect(page.locator("#state").get_by_text(words)).to_be_in_viewport()
    for words in (
        "none",
        "not yet",
        "not measured",
        "no price: the job uses no profile with a price",
    ):
        expect(page.locator("#glance").get_by_text(words, exact=True)).to_be_in_viewport()


def box_of(element: object) -> dict[str, float]:
    return element.bounding_box()  # type: ignore[attr-defined, no-any-return]


def test_two_revisions_are_compared(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    page.goto(f"{site.address}{JOB}")
    page.locator("select[name=first]").select_option(EARLIER)
    page.locator("select[name=second]").select_option(PRESENT)
    page.get_by_role("button", name="Compare").click()
    row = page.get_by_role("row").filter(has_text="training.epochs")
    expect(row.get_by_role("cell")).to_have_text(["2", "3"])


def test_pages_are_used_with_the_keyboard(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    page.goto(f"{site.address}{JOB}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    points = page.locator("#points")
    for _ in range(30):
        page.keyboard.press("Tab")
        if points.locator("summary").evaluate("each => each === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(points.get_by_role("row").nth(1)).to_be_visible()
    page.goto(site.address)
    page.get_by_role("link", name="Profiles").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Profiles")
    expect(page.locator("header a[aria-current=page]")).to_have_text("Profiles")


SCREENS = (("light", 1280, PATHS), ("dark", 360, ["", "jobs/team-a/support"]))
"""Color scheme, width, and the pages that axe examines: it needs most of the time of this suite."""


@pytest.mark.parametrize(("scheme", "width", "examined"), SCREENS)
def test_pages_are_accessible_fit_the_screen_and_log_no_error(
    browser: Browser, site: Site, scheme: str, width: int, examined: list[str]
) -> None:
    with browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 740},
    ) as context:
        visitor = Visitor(context)
        page = visitor.page
        page.goto(site.address)
        found = [*serious(visitor, "login")]
        visitor.log_in(site)
        for path in PATHS:
            page.goto(f"{site.address}{path}")
            if path in examined:
                found += serious(visitor, path)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} scrolls to the side"
    assert found == []
    assert [each for each in visitor.problems if ABSENT not in each] == []


def serious(visitor: Visitor, path: str) -> Iterator[str]:
    """Yield what axe finds on the present page."""
    for rule in Axe().run(visitor.page).response["violations"]:
        if rule["impact"] in ("serious", "critical"):
            yield f"{path}: {rule['id']}: {[node['html'] for node in rule['nodes'][:3]]}"


def test_narrow_screen_shows_rows_as_lists(browser: Browser, site: Site) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}) as context:
        page = Visitor(context).log_in(site)
        reason = page.locator("#jobs .state", has_text="CUDAOutOfMemory")
        whole = page.locator("#jobs .state", has_text="Unschedulable")
        assert box_of(reason)["height"] == box_of(whole)["height"], "the name is not broken"
        assert box_of(reason)["x"] + box_of(reason)["width"] <= 344, "it is not cut off"
        page.goto(f"{site.address}jobs/team-a/support")
        row = page.get_by_role("row").filter(has_text="CUDAOutOfMemory; 1 disruption")
        for cell in row.get_by_role("cell").all():
            box = cell.bounding_box()
            assert box is None or box["x"] + box["width"] <= 360


def test_filters_are_folded_on_a_narrow_screen(site: Site, visitor: Visitor) -> None:
    """Also when a window gets wide, which has no mark to open them."""
    page = visitor.page
    page.set_viewport_size({"width": 360, "height": 740})
    visitor.log_in(site)
    field = page.get_by_label("Text")
    expect(field).to_be_hidden()
    page.locator("summary", has_text="Filters").click()
    expect(field).to_be_visible()
    page.reload()
    expect(field).to_be_hidden()
    page.set_viewport_size({"width": 1280, "height": 740})
    expect(field).to_be_visible()
    expect(page.locator("summary", has_text="Filters")).to_be_hidden()


def test_other_users_do_not_share_a_session(
    browser: Browser, site: Site, objects: Objects, visitor: Visitor
) -> None:
    """A cookie of another process, and no cookie, lead to the login."""
    visitor.log_in(site)
    (cookie,) = visitor.context.cookies()
    with served(objects) as other, browser.new_context() as context:
        stranger = Visitor(context)
        for name in (cookie["name"], other.application.cookie):
            context.add_cookies([{"name": name, "value": cookie["value"], "url": other.address}])
        stranger.page.goto(f"{other.address}{JOB}")
        expect(stranger.page.get_by_label("One-time code")).to_be_visible()
        assert "velmora" not in stranger.page.content()
