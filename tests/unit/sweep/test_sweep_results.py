"""Tables, queries and figures of a sweep, from hand-written run folders."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError
from testbed.spec.experiment import Plot
from testbed.sweep.figures import draw
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import fork_server
from testbed.sweep.index import IndexedPoint, SweepIndex
from testbed.sweep.outputs import write_outputs_in_fork
from testbed.sweep.page import write_page
from testbed.sweep.plots import PlotRequest, SweepPlot, choose_plots
from testbed.sweep.results import gather, query, time_to_loss
from tests.support.synthetic import write_sweep

MS, S = 10**6, 10**9


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    return write_sweep(tmp_path / "sweep")


def test_a_row_for_each_point(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    assert points["state"].to_list() == ["completed", "completed", "failed", "missing"]
    assert points["delay"].to_list() == ["1 ms", "20 ms", "1 s", "2 s"]
    assert points["delay_ns"].to_list() == [1 * MS, 20 * MS, 1 * S, 2 * S]
    assert points["loss_share"].to_list() == [0.001] * 4
    assert points["sizes"].to_list() == ["[4096]"] * 4
    assert points["op"][0] == "all_reduce"
    assert points["bytes"][0] == 2**20  # the largest
    assert points["time_us"][0] == 60_000
    assert points["bound_us"][0] == pytest.approx(8 * 2**20 / 1e9 * 1e6 + 10_000)  # 1 Gbit/s, 10 ms
    assert points["algbw_bound_gbytes"][0] == pytest.approx(2**20 / points["bound_us"][0] / 1000)
    assert points["rtt_ms"][0] == 20
    assert points["reason"].to_list() == ["", "", "it broke", None]
    assert points["folder"][1] == "points/p1.id1"
    assert points["time_us"][3] is None
    assert collectives.height == 3 * 4  # two operations of two sizes
    assert pl.read_parquet(sweep.table).equals(points)


def test_queries_in_sql(sweep: SweepDir) -> None:
    gather(sweep)
    names, rows = query(
        sweep, "select delay, time_us / bound_us as over from points where state = 'completed'"
    )
    assert names == ["delay", "over"]
    assert [row[0] for row in rows] == ["1 ms", "20 ms"]
    _, rows = query(sweep, "select op, max(bytes) from collectives group by op order by op")
    assert rows == [("all_reduce", 2**20), ("broadcast", 2**20)]
    with pytest.raises(InputError, match=r"DuckDB: .*nowhere[\s\S]*points and collectives"):
        query(sweep, "select * from nowhere")


def test_csv(sweep: SweepDir) -> None:
    points, _ = gather(sweep)
    lines = csv_text(points.columns, points.rows()).splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("point,state,delay,delay_ns")


def test_lines_and_bounds(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    figure = draw(SweepPlot("delay", "time_us", "algorithm"), points, collectives)
    assert figure is not None
    measured, bound = figure.data
    assert (measured.name, bound.name) == ("gloo", "gloo, bound")
    assert list(measured.x) == [1 * MS, 20 * MS]
    assert list(measured.y) == [60, 60]  # ms
    assert list(bound.y) == pytest.approx([points["bound_us"][0] / 1000] * 2)
    assert list(figure.layout.xaxis.ticktext) == ["1 ms", "20 ms"]
    longer = draw(SweepPlot("bytes", "time_us", "op"), points, collectives)
    assert longer is not None
    assert {trace.name for trace in longer.data} >= {"all_reduce", "broadcast"}


def test_zero_on_a_log_axis() -> None:
    """A log axis has none for it, and on a linear one they would all lie on each other."""
    shares = [0.0, 0.00001, 0.01]
    points = pl.DataFrame(
        {
            "loss": ["0 %", "0.001 %", "1 %"] * 2,
            "loss_share": shares * 2,
            "state": ["completed"] * 6,
            "control": ["reno"] * 3 + ["bbr"] * 3,
            "time_us": [3.0, 4.0, 900.0, 3.0, 3.5, 4.0],
            "bound_us": [2.0] * 3 + [2.00001] * 3,
        }
    )
    figure = draw(SweepPlot("loss", "time_us", "control"), points, pl.DataFrame())
    assert figure is not None
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["0 %", "0.001 %", "1 %"]
    places = [pytest.approx(place) for place in (1e-6, 1e-5, 1e-2)]
    assert list(figure.layout.xaxis.tickvals) == places
    assert [trace.name for trace in figure.data] == [
        "reno",
        "bbr",
        "bound",
    ]  # the bounds look alike
    assert all(list(trace.x) == places for trace in figure.data)
    near = draw(
        SweepPlot("loss", "time_us", "control"),
        points.filter(pl.col("loss") != "1 %"),
        pl.DataFrame(),
    )
    assert near is not None
    assert (near.layout.xaxis.type, list(near.layout.xaxis.tickvals)) == ("linear", [0, 1e-5])


def test_heat_map(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    figure = draw(SweepPlot("delay", "time_us", "algorithm", heat=True), points, collectives)
    assert figure is not None
    share = 100 * points["bound_us"][0] / 60_000
    assert figure.data[0].text[0][0] == f"60<br>{share:.0f} %"


def test_unknown_column(sweep: SweepDir) -> None:
    points, collectives = gather(sweep)
    with pytest.raises(InputError, match=r"unknown column 'time_use'[\s\S]*time_us"):
        draw(SweepPlot("delay", "time_use"), points, collectives)
    with pytest.raises(InputError, match="holds no numbers"):
        draw(SweepPlot("delay", "algorithm"), points, collectives)


def test_default_figure_takes_the_swept_keys(sweep: SweepDir) -> None:
    points, _ = gather(sweep)
    (plot,) = choose_plots(SweepIndex(name="mine", axes=["algorithm", "delay"]), points)
    assert (plot.x, plot.y) == ("delay", "time_us")


def test_figures_of_the_experiment_unless_one_is_requested(sweep: SweepDir) -> None:
    points, _ = gather(sweep)
    written = Plot(x="delay", y="efficiency", kind="heat", title="mine")
    index = SweepIndex(name="mine", axes=["algorithm", "delay"], plots=[written])
    experiment_plot = SweepPlot("delay", "efficiency", heat=True, title="mine")
    assert choose_plots(index, points) == [experiment_plot]
    assert choose_plots(index, points, PlotRequest()) == [experiment_plot]
    requested = choose_plots(index, points, PlotRequest(y="wan_drops", series="algorithm"))
    assert requested == [SweepPlot("delay", "wan_drops", "algorithm")]


def test_heat_map_takes_a_second_axis() -> None:
    points = pl.DataFrame({"delay": ["1 ms", "2 ms"], "queue": [1, 2], "time_us": [1.0, 2.0]})
    index = SweepIndex(name="mine", axes=["delay", "queue"])
    (plot,) = choose_plots(index, points, PlotRequest(heat=True))
    assert plot == SweepPlot("queue", "time_us", "delay", heat=True)


def test_page_links_runs(sweep: SweepDir) -> None:
    page = write_page(sweep, *gather(sweep)).read_text()
    assert "2 of 4 points are complete" in page
    assert 'href="points/p1.id1/report.html"' in page
    assert "failed/p2.id2" not in page  # killed before it had one
    assert 'title="it broke">failed' in page
    assert "p3" in page
    assert 'id="figure-1-time-against-delay"' in page
    assert page.count('src="http') == 0


def test_a_figure_is_a_page(sweep: SweepDir) -> None:
    def plot(out: str) -> None:
        words = ["sweep", "plot", str(sweep.path), "--x", "delay", "-o", str(sweep.path / out)]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0

    plot("mine.html")
    assert 'id="figure-1-time-against-delay"' in (sweep.path / "mine.html").read_text()
    with pytest.raises(InputError, match=r"--out: .*mine\.gif does not end in \.pdf, \.svg, .*htm"):
        plot("mine.gif")
    assert not (sweep.path / "mine.gif").exists()


def test_outputs_from_the_fork_server(sweep: SweepDir) -> None:
    with fork_server():
        table = write_outputs_in_fork(sweep)
        points, _ = gather(sweep)
        assert (table.columns, table.rows) == (points.columns, points.rows())
        assert "2 of 4 points are complete" in sweep.page.read_text()
        sweep.page.unlink()
        sweep.page.mkdir()
        with pytest.raises(IsADirectoryError):
            write_outputs_in_fork(sweep)


def test_empty_sweep(tmp_path: Path) -> None:
    folder = SweepDir.create(tmp_path / "sweep")
    point = IndexedPoint(name="p", identity="i", values={"delay": "1 ms"}, repeat=0, seed=0)
    folder.write_index(SweepIndex(name="mine", axes=["delay"], points=[point]))
    points, collectives = gather(folder)
    assert points["state"].to_list() == ["missing"]
    assert query(folder, "select count(*) from collectives")[1] == [(0,)]
    assert "1 not run yet" in write_page(folder, points, collectives).read_text()


def test_time_to_loss() -> None:
    losses = [4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0]
    steps = pl.DataFrame(
        {
            "step": range(7),
            "start_ns": [i * S for i in range(7)],
            "end_ns": [(i + 1) * S for i in range(7)],
            "loss": losses,
        }
    )
    assert time_to_loss(steps, 3.0, 0.25) == {"time_to_loss_s": 6.0, "compute_to_loss_s": 1.5}
    assert time_to_loss(steps, 3.2, 0.25) == {"time_to_loss_s": 5.0, "compute_to_loss_s": 1.25}
    assert time_to_loss(steps, 1.0, 0.25) == {"time_to_loss_s": None, "compute_to_loss_s": None}


def test_the_index_is_json(sweep: SweepDir) -> None:
    assert json.loads(sweep.index.read_text())["format"] == 1


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    """Points of a search are close to each other at its answer: 147 and 155 Mbit/s of a decade."""
    rates = ["100 Mbit/s", "147 Mbit/s", "155 Mbit/s", "500 Mbit/s", "10 Gbit/s"]
    numbers = [1e8, 1.47e8, 1.55e8, 5e8, 1e10]
    states = ["completed"] * 5
    points = pl.DataFrame(
        {"rate": rates, "rate_bps": numbers, "time_us": [5.0, 4, 3, 2, 1], "state": states}
    )
    figure = draw(SweepPlot("rate", "time_us"), points, pl.DataFrame())
    assert figure is not None
    assert list(figure.layout.xaxis.ticktext) == [rates[0], rates[1], rates[3], rates[4]]
