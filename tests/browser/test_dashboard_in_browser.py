"""`testbed ui` as a reader sees it: Chromium and the real server, with runs written by hand."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from testbed.analysis.summarize import collect
from testbed.deployments.folder import Deployment
from testbed.runfolder.status import Status, write_status
from tests.support.browser import LAPTOP, LONGEST_MS, PHONE, chromium_started, serving
from tests.support.commands import environment_without_guest
from tests.support.faults import TOPOLOGY
from tests.support.growing import EVENT_TEXT, GrowingRun, growing_plan_network
from tests.support.shared import Need
from tests.support.synthetic import make_plan, three_dcs, write_run, write_sweep

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DRAWN = "plot => plot.querySelectorAll('.heatmaplayer image, .js-line').length"
FITS = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def chromium(need: Need) -> Iterator[Browser]:
    with chromium_started(need) as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    return environment_without_guest(folder, "6.12 time-travel-slice")


@pytest.fixture(scope="module")
def results(folder: Path) -> Path:
    path = folder / "results"
    for name in ("first", "second"):
        collect(write_run(path / name, make_plan(three_dcs())))
    write_sweep(path / "delays")
    return path


@pytest.fixture(scope="module")
def address(results: Path, environment: dict[str, str]) -> Iterator[str]:
    with serving(results, environment) as url:
        yield url


class Visitor:
    """Opens pages in new contexts, and notes what their consoles say."""

    def __init__(self, chromium: Browser, address: str) -> None:
        self._chromium = chromium
        self._address = address
        self.contexts: list[BrowserContext] = []
        self.messages: list[str] = []

    def __call__(self, path: str, size: dict[str, int] = LAPTOP) -> Page:
        context = self._chromium.new_context(viewport=size)  # type: ignore[arg-type]
        context.set_default_timeout(LONGEST_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.goto(self._address + path)
        return page


@pytest.fixture
def visit(chromium: Browser, address: str) -> Iterator[Visitor]:
    visitor = Visitor(chromium, address)
    yield visitor
    for context in visitor.contexts:
        context.close()


def test_a_run_is_watched_from_start_to_end(visit: Visitor, results: Path) -> None:
    """By two browsers, of which one has a narrow window; both see the event when it happens."""
    run = GrowingRun(results / "watched", make_plan(growing_plan_network()))
    run.start()
    run.go_on()
    pages = [visit("run?at=watched"), visit("run?at=watched", PHONE)]
    for page in pages:
        expect(page.locator("#doing")).to_have_text("Running, operation 4 of 24")
        expect(page.locator("#stages .present")).to_have_text("running")
        expect(page.locator("#happened")).to_be_hidden()

    run.go_on()
    run.go_on()  # the second in which the network changes
    for page in pages:
        expect(page.locator("#happened li")).to_have_text([re.compile(f"2.000 s.*{EVENT_TEXT}")])
        expect(page.locator("#doing")).to_have_text("Running, operation 12 of 24")
        expect(page.locator("#printed pre")).to_contain_text("operation 11 is done")
        expect(page.locator("#label-east-north .use")).to_contain_text("28 %")
        for name in ("figure-ranks", "figure-utilisation", "figure-queue"):
            expect(page.locator(f"#{name} .main-svg").first).to_be_visible()
            assert page.locator(f"#{name} .plot").evaluate(DRAWN) > 0, name
        assert page.evaluate(FITS)

    run.end()
    for page in pages:
        expect(page.locator("#live")).to_be_hidden()
        expect(page.locator("#connection")).to_have_text("finished")
        report = page.frame_locator("#report iframe")
        expect(report.locator(".verdict")).to_contain_text("broadcast of 1 MiB among 6 ranks")
        expect(report.locator("#figure-ranks .main-svg").first).to_be_visible()
        body = report.locator("body")
        expect(page.locator("#report iframe")).to_have_css(
            "height", f"{body.evaluate('body => body.offsetHeight')}px"
        )
        assert page.evaluate(FITS)
    assert visit.messages == []


def test_the_list_shows_what_runs_and_finds_what_has_ended(visit: Visitor, results: Path) -> None:
    page = visit("")
    rows = page.locator("#results li")
    expect(rows.filter(has_text="first").locator(".mark")).to_have_text("completed")
    expect(rows.filter(has_text="first")).to_contain_text("broadcast of 1 MiB among 6 ranks")
    expect(rows.filter(has_text="delays")).to_contain_text("2 of 4 points complete, 1 failed")

    run = GrowingRun(results / "appears", make_plan(three_dcs()))
    card = page.locator("#now .card", has_text="appears")
    expect(card).to_contain_text("preparing")
    run.start()
    run.go_on()
    expect(card).to_contain_text("running, operation 4 of 24")
    run.end()
    expect(card).to_have_count(0)
    expect(rows.filter(has_text="appears")).to_have_count(1)

    page.locator("#search").fill("hand-made SECOND")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("second")
    assert visit.messages == []


def test_runs_are_compared(visit: Visitor) -> None:
    page = visit("")
    expect(page.locator("#compare")).to_be_disabled()
    for name in ("first", "second"):
        page.get_by_label(f"Compare {name}", exact=True).check()
    page.locator("#compare").click()
    report = page.frame_locator("#report iframe")
    expect(report.locator("#operations-table tbody tr").first).to_be_visible()
    expect(report.locator("#figure-latency .main-svg").first).to_be_visible()
    assert visit.messages == []


def test_a_sweep_leads_to_its_points(visit: Visitor) -> None:
    page = visit("sweep?at=delays", PHONE)
    report = page.frame_locator("#report iframe")
    expect(report.locator(".verdict")).to_contain_text("2 of 4 points are complete")
    report.locator("#points-table a", has_text="p1").click()
    expect(report.locator("#collectives-table")).to_be_visible()
    assert page.evaluate(FITS)
    assert visit.messages == []


def test_a_strangers_run_executes_nothing(visit: Visitor, results: Path) -> None:
    stranger = results / EVIL.replace("/", "&#47;")
    run = write_run(stranger, make_plan(three_dcs()))
    plan = run.plan.read_text()
    plan = plan.replace('"hand-made"', '"<svg onload=alert(1)>"')
    plan = plan.replace('"east"', '"east<img src=x onerror=alert(1)>"')
    run.plan.write_text(plan)
    collect(run)
    write_status(run.status, Status(state="failed", reason=EVIL, command=["testbed", EVIL]))
    run.report.write_text(f"<title>owned</title>{EVIL}")

    page = visit("")
    row = page.locator("#results li", has_text="onerror")
    expect(row).to_contain_text("The run failed: <img src=x")
    row.locator("a").click()
    report = page.frame_locator("#report iframe")
    expect(report.locator(".verdict")).to_contain_text("The run failed: <img src=x")
    expect(report.locator("#figure-ranks .main-svg").first).to_be_visible()
    frame = page.frames[1]
    assert page.locator("main img").count() + frame.locator("img").count() == 0
    assert "owned" not in (page.title().partition("<")[0], frame.title())
    assert frame.evaluate("origin") == "null"
    blocked = "() => { try { return parent.document.title } catch (error) { return error.name } }"
    assert frame.evaluate(blocked) == "SecurityError"
    assert [message for message in visit.messages if "SecurityError" not in message] == []


def test_the_live_page_of_a_stranger_executes_nothing(visit: Visitor, results: Path) -> None:
    network = growing_plan_network()
    change = network.changes[0].model_copy(update={"what": (EVIL,)})
    plan = make_plan(network.model_copy(update={"changes": (change,)}))
    run = GrowingRun(results / "live stranger", plan)
    run.start()
    for _second in range(3):
        run.go_on()
    run.run.rank_log(0).write_text(f"{EVIL}\n")
    page = visit("run?at=live%20stranger")
    expect(page.locator("#happened li")).to_contain_text("<img src=x")
    expect(page.locator("#printed pre")).to_contain_text("<img src=x")
    assert page.locator("img").count() == 0
    assert "owned" not in page.title()
    run.end()
    assert visit.messages == []


def test_an_injected_script_would_not_run(visit: Visitor) -> None:
    """The policy alone, were a text ever not escaped."""
    page = visit("")
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1';"
        "const i = document.createElement('img'); i.setAttribute('onerror', 'document.title = 2');"
        "i.src = 'data:x'; document.body.append(s, i)"
    )
    page.wait_for_timeout(200)
    assert page.title() == "Runs · testbed"
    assert any("Content Security Policy" in message for message in visit.messages)


def test_a_deployed_network_is_changed_and_taken_down(
    visit: Visitor, folder: Path, environment: dict[str, str]
) -> None:
    topology = folder / "pair.yaml"
    topology.write_text(TOPOLOGY)
    program = [sys.executable, "-m", "tests.support.recorded_network"]
    words = ["topo", "deploy", str(topology), "--clock", "virtual"]
    subprocess.run([*program, *words], env=environment, check=True, capture_output=True)
    try:
        page = visit("")
        page.locator("#networks .card", has_text="pair").click()
        link = page.locator("#links .card")
        expect(link.locator(".directions")).to_contain_text("west ⇄ east: 1 Gbit/s, 10 ms, loss 0")

        link.get_by_label("delay").fill("soon")
        link.get_by_role("button").click()
        expect(link.locator(".answer.wrong")).to_contain_text("delay")

        link.get_by_label("delay").fill("35 ms")
        link.get_by_label("loss").fill("2 %")
        link.get_by_role("button").click()
        expect(link.locator(".directions")).to_contain_text(
            "west ⇄ east: 1 Gbit/s, 35 ms, loss 2 %"
        )
        deployment = Deployment(Path(environment["TESTBED_CACHE"]) / "deployments" / "pair")
        fibre = deployment.read_plan().network.wan[0].forward.fibre
        assert fibre.delay_ns == 35_000_000
        assert fibre.loss.mean == pytest.approx(0.02)

        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("#destroy").click()
        expect(page.locator("#results")).to_be_visible()
        assert not deployment.path.exists()
    finally:
        words = ["topo", "destroy", "--all"]
        subprocess.run([*program, *words], env=environment, check=True, capture_output=True)


def test_the_server_ends_while_a_browser_listens(
    chromium: Browser, results: Path, environment: dict[str, str]
) -> None:
    """Without a traceback, as `serving` checks; with a token, which the page gets as a cookie."""
    token = "0123456789abcdef"
    with serving(results, environment, "--token", token) as url:
        page = chromium.new_page()
        page.goto(url)
        expect(page.locator("#results li", has_text="first")).to_be_visible()
        assert token not in page.url
    expect(page.locator("#connection")).to_contain_text("disconnected")
    page.close()


def test_a_page_of_a_stranger_cannot_change_anything(visit: Visitor, address: str) -> None:
    page = visit("")
    page.goto("data:text/html,<title>stranger</title>")
    attempt = """async address => {
        const options = {method: "POST", mode: "no-cors", body: "{}"};
        const answer = await fetch(address + "networks/pair/destroy", options).catch(() => null);
        const frame = document.createElement("iframe");
        frame.src = address;
        document.body.append(frame);
        await new Promise(done => setTimeout(done, 500));
        return answer ? answer.status : 0;
    }"""
    assert page.evaluate(attempt, address) == 0  # refused, or opaque
    assert page.frames[1].url.startswith("chrome-error:")
