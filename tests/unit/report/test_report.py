"""Tables and the page, from complete and from damaged run folders."""

import gzip
import io
import json
import math
import re
from base64 import b64decode, b64encode
from functools import partial
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl
import pytest
from plotly.offline import get_plotlyjs_version
from rich.console import Console

from testbed.analysis.network_history import History
from testbed.analysis.summarize import collect
from testbed.analysis.verdict import verdict
from testbed.report import tables
from testbed.report.figures.common import latency_figure
from testbed.report.figures.links import matrix_figure, queue_figure, utilisation_figure
from testbed.report.figures.ranks import rank_figure
from testbed.report.flow_table import flows_grid
from testbed.report.grid import Grid
from testbed.report.html import pack_plotly
from testbed.report.load import load
from testbed.report.page import write_page
from testbed.report.repeat import repeat_command
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.status import Status, write_status
from testbed.runfolder.summary import (
    GuestRow,
    PeriodRow,
    Spread,
    Summary,
    read_summary,
    write_summary,
)
from tests.support.synthetic import (
    GBIT,
    MS,
    START_NS,
    make_network,
    make_plan,
    mesh,
    three_dcs,
    two_dcs,
    write_flows,
    write_run,
    write_training_run,
)

# of the file in the npm package plotly.js-cartesian-dist-min 4.1.1
PLOTLY_SHA256 = "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = write_run(tmp_path / "run", make_plan(three_dcs()))
    collect(folder)
    return folder


def summary_of(run: RunDir) -> Summary:
    summary, problems = read_summary(run.summary)
    assert problems == []
    return summary


def with_collectives(summary: Summary, **changes: object) -> Summary:
    """Change the same fields of all collectives; `time_us`: all times are the same."""
    time_us = changes.get("time_us")
    if isinstance(time_us, float):
        changes["time_us"] = Spread(min=time_us, median=time_us, p95=time_us, max=time_us)
        changes["slowest_us"] = time_us
        changes["settled"] = "yes"
    rows = [row.model_copy(update=changes) for row in summary.collectives]
    return summary.model_copy(update={"collectives": rows})


def drawn(figure: go.Figure | None) -> go.Figure:
    assert figure is not None
    return figure


def text_of(grid: Grid) -> str:
    text = io.StringIO()
    Console(file=text, width=tables.WIDTH).print(tables.render(grid))
    return text.getvalue()


def page_without_plotly(run: RunDir) -> str:
    return re.sub(r"<script>.*?</script>", "", write_page(run).read_text(), flags=re.DOTALL)


def test_page_holds_plotly_packed(run: RunDir) -> None:
    """The policy has the hash of the unpacked script; two pages of a run are equal."""
    html = write_page(run).read_text()
    assert len(html) < 1_000_000
    packed = re.search(r'<script type="application/gzip" id="plotly">(.*?)</script>', html)
    assert packed is not None
    script = gzip.decompress(b64decode(packed[1]))
    assert sha256(script).hexdigest() == PLOTLY_SHA256
    assert f"'sha256-{b64encode(sha256(script).digest()).decode()}'" in unescape(html)
    assert write_page(run).read_text() == html


def test_plotly_draws_what_the_package_makes(run: RunDir) -> None:
    """The script is of plotly.js as the package has it, and has the kinds of traces of pages."""
    script = gzip.decompress(b64decode(pack_plotly()))
    of_script = re.search(rb"\(cartesian - minified\) v(\d+)\.", script)
    assert of_script is not None
    assert of_script[1].decode() == get_plotlyjs_version().split(".")[0]

    html = write_page(run).read_text()
    kinds = set(re.findall(r'"type":"(scatter\w*|bar\w*|heatmap\w*|contour|pie|box)"', html))
    assert kinds
    assert kinds <= {"scatter", "bar", "heatmap"}


def test_collectives_table_has_the_columns_of_nccl_tests(run: RunDir) -> None:
    text = text_of(tables.collectives_grid(summary_of(run)))
    header = " ".join(text.split("─")[0].split())
    for word in (
        "size",
        "count",
        "type",
        "op",
        "time",
        "algbw",
        "busbw",
        "bound",
        "of-bound",
        "#wrong",
        "(GB/s)",
    ):
        assert word in header
    row = next(
        line.split() for line in text.splitlines() if "1048576" in line and "all_reduce" in line
    )
    assert row[:6] == ["1048576", "262144", "float32", "all_reduce", "60000.0", "70000.0"]
    assert row[-1] == "0"


def test_the_widest_collectives_fit_in_100_columns(run: RunDir) -> None:
    summary = with_collectives(
        summary_of(run),
        op="reduce_scatter",
        bytes=1 << 30,
        dtype="bfloat16",
        bound_us=5_909_000.0,
        time_us=69_990_000.0,
    )
    lines = text_of(tables.collectives_grid(summary)).splitlines()
    assert sum("reduce_scatter" in line for line in lines) == 4
    assert sum("1073741824" in line for line in lines) == 4


@pytest.mark.parametrize(
    ("change", "column", "cell"),
    [
        ({"algorithm": "hierarchical"}, "algo", "hier"),
        ({"groups": "datacenter", "ranks": 40}, "group", "dc/40"),
        ({"groups": "rail", "ranks": 5}, "group", "rail/5"),
    ],
)
def test_a_column_for_what_is_not_the_default(
    run: RunDir, change: dict[str, Any], column: str, cell: str
) -> None:
    usual = summary_of(run)
    assert f" {column} " not in text_of(tables.collectives_grid(usual))
    summary = with_collectives(
        usual,
        op="reduce_scatter",
        bytes=1 << 24,
        bound_us=5_909_000.0,
        time_us=9_990_000.0,
        **change,
    )
    lines = text_of(tables.collectives_grid(summary)).splitlines()
    assert any(f" {column} " in line for line in lines)
    rows = [line.split() for line in lines if "reduce_scatter" in line]
    assert [row[4] for row in rows] == [cell] * 4
    assert [row[:2] for row in rows] == [["16777216", "4194304"]] * 4


def test_a_terminal_leaves_out_what_is_needed_least(run: RunDir) -> None:
    """Group, root, slowest rank and settling are shown; the widths of the rest do not fit."""
    summary = with_collectives(
        summary_of(run),
        op="reduce_scatter",
        bytes=1 << 30,
        group="tp",
        group_ranks=[0, 2, 4],
        root=2,
        slowest_us=139_990_000.0,
        bound_us=5_909_000.0,
        settled="swing",
    )
    first, *others = summary.collectives
    first = first.model_copy(update={"group_ranks": [0, 1], "root": 0})
    summary = summary.model_copy(update={"collectives": [first, *others]})
    text = next(tables.terminal_tables(summary))
    headers = [str(column.header).split()[0] for column in text.columns]
    for header in ("size", "op", "group", "root", "time", "slowest", "bound", "settled"):
        assert header in headers
    assert "count" not in headers
    printed = io.StringIO()
    Console(file=printed, width=tables.WIDTH).print(text)
    lines = printed.getvalue().splitlines()
    assert sum("tp 0,2,4" in line and "swing" in line for line in lines) == 3
    page = tables.collectives_grid(summary)
    assert "count" in [column.header for column in page.columns]


def test_wan_matrix(run: RunDir) -> None:
    grid = tables.wan_grid(summary_of(run))
    assert [column.header for column in grid.columns][1:] == ["east", "north", "west"]
    assert [row[0] for row in grid.rows] == ["east", "north", "west"]
    assert [row[i + 1] for i, row in enumerate(grid.rows)] == ["", "", ""]
    assert grid.rows[0][2].splitlines() == ["9.54 MiB", "5.0 %"]


def test_fidelity_and_stages(run: RunDir) -> None:
    summary = summary_of(run)
    first, *others = summary.fidelity
    unanswered = first.model_copy(update={"rtt_ms_measured": None, "ok": False})
    summary = summary.model_copy(update={"fidelity": [unanswered, *others]})
    rows = tables.fidelity_grid(summary).rows
    assert rows[0] == ["east", "north", "20.000", "-", "-", "NO"]
    assert rows[1] == ["east", "west", "20.000", "20.004", "+4.0", "yes"]
    assert "network 1.50 0.25" in " ".join(text_of(tables.stages_grid(summary)).split())


def test_tables_of_an_empty_summary() -> None:
    for make in (
        tables.collectives_grid,
        tables.wan_grid,
        tables.fidelity_grid,
        tables.stages_grid,
    ):
        assert text_of(make(Summary()))


def test_terminal_tables_are_those_with_rows(run: RunDir) -> None:
    summary = summary_of(run)
    titles = [str(table.title) for table in tables.terminal_tables(summary)]
    assert titles == ["Collectives", "WAN links"]
    first, *others = summary.fidelity
    failed = first.model_copy(update={"ok": False})
    summary = summary.model_copy(update={"fidelity": [failed, *others]})
    titles = [str(table.title) for table in tables.terminal_tables(summary)]
    assert titles == ["Collectives", "WAN links", "Emulated against expected delay"]
    assert list(tables.terminal_tables(Summary())) == []


def test_terminal_has_some_of_many_periods() -> None:
    periods = []
    for number in range(30):
        period = PeriodRow(
            at_s=number, what=["a is down"], seconds=1.0, unit="operation", per_s=2.0
        )
        periods.append(period)
    (table,) = tables.terminal_tables(Summary(periods=periods))
    assert table.row_count == tables.MOST_PERIODS
    text = io.StringIO()
    Console(file=text, width=tables.WIDTH).print(table)
    assert "and 11 more, in report.html and summary.json" in text.getvalue()


def test_guests_say_what_more_cpus_could_give() -> None:
    """Guests of 10, 6 and 4 s: three CPUs need 10 s at least, half of the 20 s of one."""
    rows: list[GuestRow] = []
    for number, cpu_s in enumerate((10.0, 6.0, 4.0)):
        row = GuestRow(
            guest=number, datacenters=["a"], cpu_seconds=cpu_s, waited_seconds=0, packets=1, bytes=1
        )
        rows.append(row)
    note = tables.guests_grid(Summary(guests=rows)).note
    assert "each of the 3 guests the run takes at least the 10.0 s" in note
    assert "at most 2.0 times as fast" in note
    assert tables.guests_grid(Summary()).note == ""


@pytest.mark.parametrize(
    ("gbytes", "text"), [(0, "0.00"), (12.345, "12.35"), (0.01984, "0.0198"), (8.19e-5, "8.2e-5")]
)
def test_bandwidth(gbytes: float, text: str) -> None:
    assert tables.bandwidth(gbytes) == text


def test_latency_figure_has_each_operation_and_its_bound(run: RunDir) -> None:
    figure = drawn(latency_figure(summary_of(run).collectives))
    assert [trace.name for trace in figure.data] == [
        "all_reduce",
        "all_reduce, bound",
        "broadcast",
        "broadcast, bound",
    ]
    assert list(figure.data[0].x) == [4096, 1 << 20]
    assert list(figure.data[0].y) == [60, 60]
    assert latency_figure([]) is None


def test_few_links_are_lines(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    collect(run)
    links, history = pl.read_parquet(run.links), History((run.read_plan().network,))
    used = drawn(utilisation_figure(links, history, START_NS))
    assert [trace.name for trace in used.data] == ["east → west", "west → east"]
    assert list(used.data[0].y) == pytest.approx([5] * 17)  # 625 kB each 100 ms of 1 Gbit/s
    assert list(used.data[0].x)[:2] == [0, 0.1]
    queue = drawn(queue_figure(links, history, START_NS))
    assert list(queue.data[0].y)[:3] == pytest.approx([0, 0, 0], abs=0.01)  # of 1.5 MB
    assert utilisation_figure(links.clear(), history, START_NS) is None
    assert utilisation_figure(links.head(2), history, START_NS) is None


def test_a_stalled_link_has_no_use(tmp_path: Path) -> None:
    """At a rate of 0 from 0.5 s on, bytes that the last sample has still to count are no use."""
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    collect(run)
    network = run.read_plan().network
    (link,) = network.wan
    stalled = [
        direction.with_rate_and_delay(0, direction.fibre.delay_ns) for direction in link.directions
    ]
    after = network.model_copy(update={"wan": (link.with_directions(*stalled),)})
    history = History((network, after), (START_NS + 500 * MS,))
    used = drawn(utilisation_figure(pl.read_parquet(run.links), history, START_NS))
    assert list(used.data[0].y) == pytest.approx([5] * 5 + [0] * 12)


def test_many_links_are_rows(tmp_path: Path) -> None:
    names = ["east", "north", "south", "west"]
    run = write_run(
        tmp_path / "run",
        make_plan(make_network(dict.fromkeys(names, 1), mesh(names, GBIT, 10 * MS))),
    )
    collect(run)
    links = pl.read_parquet(run.links).with_columns(backlog_bytes=pl.lit(750_000))
    history = History((run.read_plan().network,))
    used = drawn(utilisation_figure(links, history, START_NS)).data[0]
    assert len(used.y) == 12
    assert used.z[0] == pytest.approx([5] * 16)
    queue = drawn(queue_figure(links, history, START_NS)).data[0]
    assert queue.z[3] == pytest.approx([50] * 16)  # of 1000 packets of 1500 bytes
    assert queue.customdata[0][0] == "1.43 MiB (12 ms)"


def test_matrix_figure(run: RunDir) -> None:
    matrix = drawn(matrix_figure(summary_of(run).wan)).data[0]
    assert list(matrix.x) == list(matrix.y) == ["east", "north", "west"]
    assert matrix.z[0] == pytest.approx([math.nan, 5, 5], nan_ok=True)  # 6.25 MB/s
    assert matrix.text[0][1] == "9.54 MiB<br>5.0 %"
    assert matrix_figure([]) is None


def test_rank_figure_shows_operations_and_waits(tmp_path: Path) -> None:
    plan = make_plan(two_dcs())
    run = write_run(tmp_path / "run", plan)
    collect(run)
    ops = pl.read_parquet(run.ops)
    late = (
        pl.when(pl.col("rank") == 1)
        .then(pl.col("start_ns") + 40 * MS)
        .otherwise(pl.col("start_ns"))
    )
    figure = drawn(rank_figure(ops.with_columns(start_ns=late), None, plan, START_NS))
    assert list(figure.data[0].y) == ["0 (east-0)", "1 (west-0)"]
    assert {trace.name for trace in figure.data[1:]} == {"waiting", "all_reduce", "broadcast"}
    at = partial(state_at, figure)
    assert [at(0, 20), at(0, 60), at(0, 95)] == [
        "waiting",
        "all_reduce",
        "idle",
    ]  # the warm-up: 90 ms, the other late
    assert [at(1, 20), at(1, 60)] == ["idle", "all_reduce"]


def test_rank_figure_of_training(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "run", make_plan(two_dcs()))
    collect(run)
    ops = pl.read_parquet(run.ops)
    steps = pl.read_parquet(run.train)
    figure = drawn(rank_figure(ops, steps, run.read_plan(), START_NS))
    at = partial(state_at, figure, 0)
    assert [at(20), at(55), at(80)] == [
        "computation",
        "computation and communication",
        "all_reduce",
    ]


def state_at(figure: go.Figure, rank: int, ms: float) -> str:
    """What the figure shows of a rank at a time."""
    edges = figure.data[0].x
    column = next(i for i in range(len(edges) - 1) if edges[i] * 1000 <= ms < edges[i + 1] * 1000)
    return str(figure.data[0].text[rank][column])


def test_page_is_one_file_with_everything(run: RunDir) -> None:
    html = page_without_plotly(run)
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", html)
    for part in (
        "figure-latency",
        "figure-utilisation",
        "figure-queue",
        "figure-matrix",
        "figure-ranks",
        "site-map",
        "Collectives",
        "WAN links",
        "faithful timing",
        "1048576",
        "Emulated against expected delay",
        "torch",
        "1 Gbit/s, 10 ms one way",
        "prefers-color-scheme: dark",
        "testbed run hand-made collectives --seed 1",
        "name: hand-made",
    ):
        assert part in html, part
    assert "Missing or damaged" not in html
    assert write_page(run).stat().st_size < 10_000_000


def test_page_escapes_everything(run: RunDir) -> None:
    evil = "</script><script>alert(1)</script>"
    run.spec.write_text(evil)
    problem = Problem(code=ProblemCode.UNKNOWN, message=evil)
    status = Status(
        state="failed",
        reason=evil,
        warnings=[problem],
        faithful=False,
        command=["testbed", evil],
    )
    write_status(run.status, status)
    summary = with_collectives(summary_of(run), op=evil)
    write_summary(run.summary, summary.model_copy(update={"problems": [problem]}))
    html = page_without_plotly(run)
    assert "<script>alert" not in run.report.read_text()
    assert "✗ unfaithful timing" in html
    assert "unsafe-inline" not in html.split("script-src")[1].split(";")[0]


def test_page_of_a_folder_with_only_a_plan(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.plan.write_text(make_plan(two_dcs()).model_dump_json())
    html = page_without_plotly(run)
    for name in ("status.json", "summary.json", "links.parquet"):
        assert f"cannot read {name}" in html
    assert "timing not judged" in html


def test_page_of_a_damaged_folder(run: RunDir) -> None:
    run.plan.write_text("{")
    run.spec.write_text("")
    run.links.write_bytes(run.links.read_bytes()[:40])
    summary = json.loads(run.summary.read_text())
    summary["collectives"] = [{"op": "all_reduce", "bytes": 8}]
    summary["wan"] = [3]
    run.summary.write_text(json.dumps(summary))
    html = page_without_plotly(run)
    for part in (
        "plan.json",
        "links.parquet",
        "1 rows of 'collectives'",
        "1 rows of 'wan'",
        "spec.yaml is empty",
    ):
        assert part in unescape(html)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "no status"),
        (Status(state="running"), "still in progress, or was killed"),
        (Status(state="failed", reason="rank 3 died."), "The run failed: rank 3 died."),
        (Status(state="interrupted", reason="Ctrl-C"), "The run was interrupted: Ctrl-C."),
        (
            Status(state="completed"),
            "all_reduce of 1 MiB among 6 ranks takes 60 ms, 3.8 times the least",
        ),
    ],
)
def test_verdict(run: RunDir, status: Status | None, expected: str) -> None:
    summary = Summary(collectives=summary_of(run).collectives[:2])
    assert expected in verdict(status, summary)


def test_verdict_warns_of_wrong_results(run: RunDir) -> None:
    first, *others = summary_of(run).collectives
    rows = [first.model_copy(update={"wrong": 5}), *others]
    assert "5 wrong values" in verdict(Status(state="completed"), Summary(collectives=rows))


@pytest.mark.parametrize(
    ("command", "repeated"),
    [
        (
            ["testbed", "run", "x", "--set", "a='1 ms'"],
            """testbed run x --set 'a='"'"'1 ms'"'"''""",
        ),
        (
            [
                "/opt/testbed/__main__.py",
                "run",
                "x",
                "--out",
                "here",
                "--",
                "train.py",
                "--out",
                "o",
            ],
            "testbed run x -- train.py --out o",
        ),
        (["testbed", "run", "--out=here", "x"], "testbed run x"),
    ],
)
def test_the_typed_command_comes_first(run: RunDir, command: list[str], repeated: str) -> None:
    content = load(run)
    content.status = Status(command=command)
    assert repeat_command(content) == repeated


def test_timing_that_the_status_does_not_judge(run: RunDir) -> None:
    for judgement in ({}, {"faithful": "perhaps"}):
        run.status.write_text(json.dumps({"state": "completed", **judgement}))
        assert "timing not judged" in page_without_plotly(run)


def test_a_table_of_flows_or_how_to_get_one(run: RunDir) -> None:
    run.flows.unlink(missing_ok=True)
    assert "no valid flows.parquet" in page_without_plotly(run)
    write_flows(run)
    html = unescape(page_without_plotly(run))
    for part in ("Connections across the WAN", "east-0 (rank 0):40000", "2.000", "21.000", "70.0"):
        assert part in html
    pl.read_parquet(run.flows).clear().write_parquet(run.flows)
    assert "no TCP connection" in page_without_plotly(run)
    plan = json.loads(run.plan.read_text())
    run.flows.unlink()
    run.plan.write_text(json.dumps(plan | {"capture": "none"}))
    assert "With --capture wan" in page_without_plotly(run)


def test_the_largest_flows_come_first(run: RunDir) -> None:
    write_flows(run)
    flows = pl.read_parquet(run.flows)
    assert [row[3] for row in flows_grid(flows.reverse()).rows] == ["2.000", "1.000"]
    many = flows_grid(pl.concat([flows] * 300))
    assert len(many.rows) == 500
    assert "500 largest of 600" in many.note
    bare = flows.select("link", "from_dc", "to_dc", "src_host", "dst_host", "payload_bytes")
    assert flows_grid(bare).rows[0][4:] == ["-"] * 11


def test_the_verdict_names_what_dominates(run: RunDir) -> None:
    summary = summary_of(run)
    assert summary.dominant is not None
    assert summary.dominant.what == "latency"
    text = verdict(Status(state="completed"), summary)
    assert text.startswith("Latency dominates: ")
    assert text.count(". ") == 0
