"""The pages as a reader opens them: Chromium, from a file, without a network."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from testbed.analysis.summarize import collect
from testbed.report.compare_page import Side, compare_page
from testbed.report.html import write_plotly
from testbed.report.load import load
from testbed.report.page import write_page
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.status import Status, write_status
from testbed.sweep.folder import PLOTLY, PLOTLY_OF_POINTS
from testbed.sweep.page import write_page as write_sweep_page
from testbed.sweep.results import gather
from tests.support.browser import LAPTOP, LONGEST_MS, PHONE, chromium_started
from tests.support.large_run import write_large_run
from tests.support.shared import Need
from tests.support.synthetic import (
    make_plan,
    three_dcs,
    write_flows,
    write_run,
    write_sweep,
    write_training_run,
)

# Of each figure: points or cells that have a value.
COUNT_DATA = """plot => {
    const cells = points => points[0].z.flatMap(row => [...row]);
    const values = points => (points[0]?.z ? cells(points) : points.map(point => point.y));
    const count = points => values(points).filter(value => Number.isFinite(value)).length;
    const known = plot.calcdata.map(count);
    return known.reduce((sum, count) => sum + count, 0);
}"""
# What is drawn of them: lines, markers, bars, and the image of a heat map.
COUNT_DRAWN = "plot => plot.querySelectorAll('.js-line, .point, .heatmaplayer image').length"
FIGURES = ["latency", "matrix", "utilisation", "queue", "ranks"]
Size = dict[str, int]


@pytest.fixture(scope="module")
def chromium(need: Need) -> Iterator[Browser]:
    with chromium_started(need) as browser:
        yield browser


class Opener:
    """Opens pages in new contexts; `messages` are those of the consoles, and requests."""

    def __init__(self, chromium: Browser) -> None:
        self._chromium = chromium
        self._contexts: list[BrowserContext] = []
        self.messages: list[str] = []

    def __call__(self, path: Path, **options: Any) -> Page:
        context = self._chromium.new_context(offline=True, accept_downloads=True, **options)
        context.set_default_timeout(LONGEST_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._note(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("dialog", lambda dialog: self._note(dialog.message))
        page.on("request", lambda request: self._note_request(request.url))
        page.goto(path.as_uri())
        return page

    def _note(self, message: str) -> None:
        self.messages.append(message)

    def _note_request(self, url: str) -> None:
        if url.startswith("http"):
            self.messages.append(url)

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def show(chromium: Browser) -> Iterator[Opener]:
    opener = Opener(chromium)
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def collectives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("collectives") / "run", make_plan(three_dcs()))
    collect(run)
    write_flows(run)
    return write_page(run)


@pytest.fixture(scope="module")
def opened(chromium: Browser, collectives: Path) -> Iterator[Page]:
    """The page of `collectives`, once for those tests that leave it as it was."""
    context = chromium.new_context(offline=True, accept_downloads=True, color_scheme="dark")
    context.set_default_timeout(LONGEST_MS)
    page = context.new_page()
    page.goto(collectives.as_uri())
    yield page
    context.close()


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_training_run(tmp_path_factory.mktemp("training") / "run", make_plan(three_dcs()))
    collect(run)
    return write_page(run)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_each_figure_has_its_data(show: Opener, collectives: Path, theme: str, size: Size) -> None:
    page = show(collectives, color_scheme=theme, viewport=size)
    assert show.messages == []
    for name in FIGURES:
        plot = page.locator(f"#figure-{name}")
        assert plot.evaluate(COUNT_DATA) > 0, name
        assert plot.evaluate(COUNT_DRAWN) > 0, name
    assert page.locator(".site-map .link path").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_training_has_its_curve(show: Opener, training: Path) -> None:
    page = show(training)
    assert show.messages == []
    assert page.locator("#figure-loss").evaluate(COUNT_DATA) == 6
    assert page.locator("#figure-ranks").evaluate(COUNT_DRAWN) > 0
    assert page.locator("#training-table tbody tr").count() == 1


def test_text_is_legible_in_both_themes(opened: Page) -> None:
    tick = opened.locator("#figure-latency .xtick text").first
    opened.emulate_media(color_scheme="light")
    expect(tick).to_have_css("fill", "rgb(28, 39, 51)")
    opened.emulate_media(color_scheme="dark")
    expect(tick).to_have_css("fill", "rgb(228, 233, 238)")


def saved(page: Page, selector: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator(selector).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_figures_are_saved(opened: Page) -> None:
    for figure in ("map", *FIGURES):
        name, svg = saved(opened, f"#{figure} [data-save=svg]")
        assert name == f"{figure}.svg"
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        name, png = saved(opened, f"#{figure} [data-save=png]")
        image = Image.open(io.BytesIO(png))
        assert name == f"{figure}.png"
        assert image.width == 1920
        colours = image.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 10


def test_tables_are_saved_as_csv(opened: Page) -> None:
    name, text = saved(opened, "#collectives-table [data-csv]")
    rows = list(csv.DictReader(io.StringIO(text.decode())))
    assert name == "collectives.csv"
    assert [(row["op"], row["size (B)"], row["time (us)"]) for row in rows][:2] == [
        ("all_reduce", "4096", "60000.0"),
        ("all_reduce", "1048576", "60000.0"),
    ]


def test_tables_are_sorted(opened: Page) -> None:
    header = opened.locator("#flows-table th", has_text="packets")
    cells = opened.locator("#flows-table tbody tr td:nth-child(5)")
    assert cells.all_inner_texts() == ["100", "200"]
    header.locator("button").click()
    assert cells.all_inner_texts() == ["200", "100"]
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").click()
    assert cells.all_inner_texts() == ["100", "200"]


def test_a_strangers_run_executes_nothing(show: Opener, tmp_path: Path) -> None:
    evil = (
        "</script><script>document.title='owned'</script>"
        "<img src=x onerror=\"document.title='owned'\">"
    )
    run = write_run(tmp_path / "run", make_plan(three_dcs()))
    plan = run.plan.read_text()
    plan = plan.replace('"hand-made"', '"<svg onload=alert(1)>"')
    plan = plan.replace('"east"', '"east<img src=x onerror=alert(1)>"')
    run.plan.write_text(plan)
    collect(run)
    write_flows(run)
    run.spec.write_text(evil)
    warning = Problem(code=ProblemCode.UNKNOWN, message=evil)
    status = Status(state="failed", reason=evil, warnings=[warning], command=["testbed", evil])
    write_status(run.status, status)

    summary = json.loads(run.summary.read_text())
    for row in [*summary["collectives"], *summary["wan"], *summary["fidelity"]]:
        for key in ("op", "from", "dtype"):
            if key in row:
                row[key] = evil
    summary["problems"] = [evil]
    summary["dominant"] = {"what": evil, "why": evil}
    run.summary.write_text(json.dumps(summary))
    page = show(write_page(run))
    page.wait_for_timeout(200)
    assert page.title() == "run"
    assert page.locator("img, main script:not([type])").count() == 0
    assert show.messages == []


def test_an_injected_script_would_not_run(show: Opener, collectives: Path, tmp_path: Path) -> None:
    """The policy alone, were a text ever not escaped."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        collectives.read_text().replace("<main>", "<main><script>document.title='owned'</script>")
    )
    page = show(broken)
    assert page.title() == "run"
    assert any("Content Security Policy" in line for line in show.messages)


def test_a_comparison_has_its_curves(
    show: Opener, tmp_path: Path, collectives: Path, training: Path
) -> None:
    sides = []
    for name, path in (("first", training), ("second", training), ("third", collectives)):
        run = RunDir(path.parent)
        plan = json.loads(run.plan.read_text())
        if name == "second":
            plan["seed"] = 7
        sides.append(Side(name, load(run), plan))
    (tmp_path / "compared.html").write_bytes(compare_page(sides))
    page = show(tmp_path / "compared.html")
    assert show.messages == []
    assert page.locator("#figure-loss").evaluate("plot => plot.data.map(trace => trace.name)") == [
        "first",
        "second",
    ]
    assert page.locator("#figure-latency").evaluate(COUNT_DATA) == 4
    assert page.locator("#figure-use").evaluate(COUNT_DATA) == 18
    assert page.locator("#plans-table tbody tr", has_text="seed").locator(
        "td"
    ).all_inner_texts() == [
        "seed",
        "1",
        "7",
        "1",
    ]
    assert page.locator("#links-table tbody tr").count() >= 6


LINES = {
    "x": "bytes",
    "y": "time_us",
    "series": "op",
    "facet": "delay",
    "kind": "line",
    "title": "",
}
HEAT = {
    "x": "delay",
    "y": "time_us",
    "series": "algorithm",
    "facet": None,
    "kind": "heat",
    "title": "<b>hot</b>",
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_a_sweep_has_its_figures(show: Opener, tmp_path: Path, theme: str, size: Size) -> None:
    sweep = write_sweep(tmp_path / "sweep", [LINES, HEAT])
    page = show(write_sweep_page(sweep, *gather(sweep)), color_scheme=theme, viewport=size)
    assert show.messages == []
    lines, heat = page.locator("#figure-1-time-against-bytes"), page.locator("#figure-2-b-hot-b")
    assert (
        lines.evaluate(COUNT_DATA) == 2 * (2 + 1) * 2
    )  # delays; operations and the bound, the same of both; sizes
    assert heat.evaluate(COUNT_DATA) == 2
    assert min(plot.evaluate(COUNT_DRAWN) for plot in (lines, heat)) > 0
    name, svg = saved(page, "#\\31 -time-against-bytes [data-save=svg]")
    assert name == "1-time-against-bytes.svg"
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_points_of_a_sweep(show: Opener, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    page = show(write_sweep_page(sweep, *gather(sweep)))
    assert (
        page.locator(".verdict").inner_text()
        == "2 of 4 points are complete, 1 failed, 1 not run yet."
    )
    _, text = saved(page, "#points-table [data-csv]")
    rows = list(csv.DictReader(io.StringIO(text.decode())))
    assert [(row["point"], row["delay"], row["state"]) for row in rows] == [
        ("p0", "1 ms", "completed"),
        ("p1", "20 ms", "completed"),
        ("p2", "1 s", "failed"),
        ("p3", "2 s", "missing"),
    ]
    page.locator("#points-table a", has_text="p1").click()
    assert page.url.endswith("/points/p1.id1/report.html")


def test_a_large_run(show: Opener, tmp_path: Path) -> None:
    """40 ranks with 10 000 operations each: less than 10 MB, and it opens."""
    run = write_large_run(tmp_path / "run")
    collect(run)
    path = write_page(run)
    assert path.stat().st_size < 10_000_000
    page = show(path)
    assert show.messages == []
    assert page.locator("#figure-ranks").evaluate(COUNT_DATA) == 40 * 800
    assert page.locator("#figure-utilisation").evaluate(COUNT_DATA) == 20 * 400


@pytest.fixture(scope="module")
def point_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a point in a sweep's folder, which has plotly once for all points."""
    sweep = tmp_path_factory.mktemp("sweep")
    (sweep / "points").mkdir()
    run = write_run(sweep / "points" / "delay-1ms", make_plan(three_dcs()))
    collect(run)
    write_plotly(sweep / PLOTLY)
    return write_page(run, PLOTLY_OF_POINTS)


def test_a_point_draws_with_the_script_of_its_sweep(show: Opener, point_page: Path) -> None:
    assert point_page.stat().st_size < 500_000
    page = show(point_page, viewport=LAPTOP)
    for name in FIGURES:
        plot = page.locator(f"#figure-{name}")
        expect(plot.locator(".main-svg").first).to_be_visible()
        assert plot.evaluate(COUNT_DRAWN) > 0, name
    assert show.messages == []


def test_a_point_without_the_script_says_what_is_missing(
    show: Opener, point_page: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "report.html"
    shutil.copy(point_page, alone)
    page = show(alone, viewport=LAPTOP)
    expect(page.locator("#figure-latency")).to_contain_text("plotly.min.js of its sweep")
    expect(page.locator("#collectives-table")).to_be_visible()
