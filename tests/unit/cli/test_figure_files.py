"""Files of figures: the ending decides, and a wrong one is refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.analysis.summarize import collect
from testbed.cli.main import app
from testbed.core.errors import InputError
from tests.support.synthetic import make_plan, two_dcs, write_run, write_sweep

STARTS = {"pdf": b"%PDF-", "svg": b"<?xml", "png": b"\x89PNG"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder `run` and a sweep's folder `sweep`."""
    path = tmp_path_factory.mktemp("figures")
    collect(write_run(path / "run", make_plan(two_dcs())))
    write_sweep(path / "sweep")
    return path


def invoke(*words: object) -> str:
    """Run a command and return what it prints."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        (["compare", "a", "b"], "--html", "page.pdf"),
        (["compare", "a", "b"], "--out", "figure.html"),
        (["report", "a"], "--out", "figure"),
        (["sweep", "plot", "a"], "--out", "figure.eps"),
        (["topo", "graph", "nowhere"], "--output", "map.gif"),
        (["topo", "import", "nowhere.csv"], "--out", "mine.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_ending_is_refused_first(
    command: list[str], option: str, name: str, tmp_path: Path
) -> None:
    """Neither the runs, nor the sweep, nor the topology exist, but the error names the ending."""
    path = tmp_path / name
    with pytest.raises(InputError, match=f"{option}: .*{name} does not end in .* or "):
        invoke(*command, option, path)
    assert not path.exists()


@pytest.mark.parametrize("ending", STARTS)
def test_figures_of_each_command(folders: Path, tmp_path: Path, ending: str) -> None:
    run = folders / "run"
    out = tmp_path / f"figure.{ending}"
    commands: list[list[object]] = [
        ["report", run, "--figure", "latency"],
        ["report", run, "--figure", "map"],
        ["compare", run, run, "--figure", "use"],
        ["sweep", "plot", folders / "sweep", "--x", "delay"],
        ["topo", "graph", "two-sites"],
    ]
    for command in commands:
        assert str(out) in invoke(*command, "-o", out)
        start = STARTS[ending]
        if command[-1] in ("map", "two-sites") and ending == "svg":
            start = b"<svg "
        assert out.read_bytes().startswith(start), command
        out.unlink()


def test_all_figures_are_pages_of_a_pdf(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.pdf"
    invoke("report", folders / "run", "-o", out, "--width", "double")
    assert out.read_bytes().count(b"/Type /Page ") == 5
    with pytest.raises(InputError, match=r"a \.svg file holds one figure, and there are 5: la"):
        invoke("report", folders / "run", "-o", tmp_path / "all.svg")


def test_wrong_figures(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "figure.pdf"
    run = folders / "run"
    with pytest.raises(InputError, match=r"no figure 'latenz'\n  choose one of: latency, .*map"):
        invoke("report", run, "-o", out, "--figure", "latenz")
    with pytest.raises(InputError, match="no figure '2-b'"):
        invoke("sweep", "plot", folders / "sweep", "-o", out, "--figure", "2-b")
    with pytest.raises(InputError, match=r"--figure chooses .*\n  add -o FILE"):
        invoke("report", run, "--figure", "latency")
    with pytest.raises(InputError, match="--out requires exactly one run"):
        invoke("report", run, run, "-o", out)
    with pytest.raises(InputError, match=r"cannot write .*nowhere/a\.pdf: No such file"):
        invoke("report", run, "-o", tmp_path / "nowhere" / "a.pdf")
