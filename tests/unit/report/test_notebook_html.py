"""What notebooks show: everything that comes from a file or a person is escaped."""

from pathlib import Path

from testbed.analysis.summarize import collect
from testbed.report import notebook
from testbed.runfolder.status import Status, write_status
from testbed.spec.topology import Topology
from tests.support.synthetic import make_plan, two_dcs, write_run

EVIL = "<script>alert(1)</script>"


def test_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", make_plan(two_dcs()))
    collect(folder)
    write_status(folder.status, Status(state="failed", exit_status=1, reason=EVIL))
    html = notebook.run_html(folder)
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html
    assert f"<code>{folder.report}</code>" in html
    assert '<td style="text-align: left">all_reduce</td>' in html


def test_empty_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", make_plan(two_dcs()))
    folder.status.unlink()
    assert "left no status" in notebook.run_html(folder)


def test_topology() -> None:
    topology = Topology.load("two-sites")
    html = topology._repr_html_()
    assert html.startswith('<div class="testbed"><p>two-sites: ')
    assert "<svg" in html
    evil = topology.model_copy(update={"description": EVIL})
    assert "<script" not in evil._repr_html_()


def test_long_tables_are_cut() -> None:
    html = notebook.rows_html(("name", "n"), [(EVIL, number) for number in range(25)])
    assert html.count("<tr>") == 1 + notebook.MOST_ROWS
    assert "and 5 more rows" in html
    assert "<script" not in html
    assert '<td style="text-align: right">7</td>' in html
